"""Settings of the guarded models, and of the release of their answers."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from streamward.api_keys import key_from
from streamward.errors import ConfigError
from streamward.gateway.opaque import UnknownOpaque
from streamward.ladder import LadderStep
from streamward.policy import Policy
from streamward.settings import Settings

_MIN_KEY_CHARS = 32


PrefillMode = Literal["continue_final_message", "prefix", "assistant_last", "completions", "none"]


class ReleaseConfig(Settings):
    """Settings for releasing text of the guarded model."""

    mode: Literal["checked", "hold", "audit"] = "checked"
    """checked: when judged. hold: when so many tokens behind it are judged too. audit: at once, judged afterwards."""
    hold_tokens: int = Field(default=0, ge=0)
    """Hold-back: judged tokens that wait in mode `hold` before text leaves."""
    unjudged_output: Literal["drop", "block", "pass"] = "drop"
    """Treatment of output that cannot be judged: audio and image data, alternatives among log probabilities."""
    opaque_strings: UnknownOpaque = "drop"
    """Runs of 100 and more digits of base64 or hexadecimal in unknown fields, that are no words. drop: they are left
    out. judge: what they say when they are decoded is judged. pass: nobody reads them."""

    @model_validator(mode="after")
    def _holds_only_in_mode_hold(self) -> Self:
        if (self.mode == "hold") != (self.hold_tokens > 0):
            raise ValueError("hold_tokens must be at least 1 in mode hold, and 0 in the others")
        return self


@dataclass(frozen=True, slots=True)
class ReleaseRules:
    """Rules for releasing the text of one answer, by its policy or else by the settings of its upstream.

    Attributes:
        mode: As in `ReleaseConfig` and `ReleasePolicy`.
        hold_tokens: Judged tokens at the end that are kept back.
        ladder: What is tried when text is flagged, in mode `intervene`.
    """

    mode: Literal["checked", "hold", "audit", "intervene"]
    hold_tokens: int = 0
    ladder: tuple[LadderStep, ...] = ()

    @classmethod
    def of(cls, policy: Policy, config: ReleaseConfig) -> "ReleaseRules":
        """Return the rules for answers under a policy."""
        own = policy.release
        if own is None:
            return cls(config.mode, config.hold_tokens)
        return cls(own.mode, own.num_held, own.ladder if own.mode == "intervene" else ())


class PromptConfig(Settings):
    """Settings for requests."""

    on_block: Literal["error", "refusal"] = "error"
    """error: status 400 with code content_filter. refusal: an answer of the assistant, with status 200."""
    refusal: str = Field(default="I can't help with that.", min_length=1)
    """Text of that answer, where the policy has no replacement of its own."""
    unjudged_input: Literal["refuse", "pass"] = "refuse"
    """Images, audio, files and token ids in the request, which the guard does not read."""
    unsealed_state: Literal["drop", "refuse"] = "drop"
    """Signatures and encrypted reasoning in requests that were not sealed here for the same tenant and upstream."""
    call_upstream: Literal["at_once", "after_prompt"] = "at_once"
    """at_once: while the prompt is judged. after_prompt: once it is allowed; slower, and spares what is blocked."""
    may_relax: bool = False
    """If true, a request's own `moderation.policy` may ask for scores only where the policy blocks."""

    @property
    def unread_refusal(self) -> str | None:
        """Reason for refusing data in a request; None where it may pass."""
        if self.unjudged_input == "pass":
            return None
        return "this gateway judges text only and refuses what it cannot judge (unjudged_input)"


class UpstreamConfig(Settings):
    """An OpenAI-compatible server whose answers are guarded."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a key in the wrong place would be shown

    base_url: str = Field(pattern=r"^https?://[^/\s@?#]+(/[^\s@?#]*)?$")
    """Up to and including `/v1`. No user, password or query in it."""
    api_key_env: str | None = Field(default=None, pattern="^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable with the key that this server asks for; None if it asks for none."""
    ca_file: Path | None = None
    """PEM file with the certificates that vouch for it; None: the usual ones."""
    models: tuple[str, ...] = ()
    """Names of models that may be asked for; empty: any."""
    release: ReleaseConfig = ReleaseConfig()
    """Settings for releasing text."""
    prompt: PromptConfig = PromptConfig()
    """Settings for requests."""
    prefill: PrefillMode = "none"
    """Request by which this server continues an answer (mode `intervene`). continue_final_message: vLLM, SGLang.
    prefix: DeepSeek, Mistral. assistant_last: an assistant's message at the end is enough, as with llama.cpp, TGI and
    LMDeploy. completions: `chat_template` is rendered here and `/v1/completions` is asked. none: it cannot."""
    prefill_is_repeated: bool = False
    """If true, the upstream's answer begins with the text that it was given to continue, as Mistral's does."""
    chat_template: Path | None = None
    """File with the model's chat template, in Hugging Face's dialect of Jinja; needed where prefill is completions."""
    annotations: bool = False
    """If true, answers carry Azure's content filter results even if the request does not ask for them."""
    connect_timeout_s: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """For a connection."""
    first_byte_timeout_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """From the request to the first byte of the answer; an answer that is not streamed takes as long as it is."""
    idle_timeout_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """Between two parts of an answer: models that reason are silent for minutes."""
    max_connections: int = Field(default=256, gt=0)
    """Answers at the same time."""

    @model_validator(mode="after")
    def _has_a_template_where_one_is_rendered(self) -> Self:
        if (self.prefill == "completions") != (self.chat_template is not None):
            raise ValueError("chat_template must be given where prefill is completions, and nowhere else")
        if self.prefill == "none" and self.prefill_is_repeated:
            raise ValueError("prefill_is_repeated says nothing where prefill is none")
        return self

    @field_validator("base_url")
    @classmethod
    def _has_a_host_and_a_port(cls, url: str) -> str:
        with suppress(ValueError):  # of a port that is none, or a name with an empty or too long part
            where = urlsplit(url)
            if where.hostname and where.hostname.encode("idna") and where.port != 0:
                return url
        raise ValueError("the host must be a name or an address, the port a number from 1 to 65535")

    def secret(self) -> SecretStr | None:
        """Return the key of this server; None if it asks for none.

        Raises:
            ConfigError: The environment variable is not set or holds no key.
        """
        return None if self.api_key_env is None else key_from(self.api_key_env)


class GatewayLimits(Settings):
    """Bounds of one answer."""

    max_event_bytes: int = Field(default=2**22, gt=0)
    """One event of a stream."""
    max_ahead_bytes: int = Field(default=2**18, gt=0)
    """Read ahead of the judge before the upstream has to wait."""
    max_held_bytes: int = Field(default=2**22, gt=0)
    """Judged or waiting, but not released."""
    max_answer_bytes: int = Field(default=2**25, gt=0)
    """The whole answer."""
    max_guard_streams: int = Field(default=32, gt=0)
    """Guard streams of one answer: one for each choice, and one for each field that is written by turns with others."""
    max_answer_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)
    """From the request to the end of the answer."""
    keep_alive_s: float = Field(default=15.0, gt=0, allow_inf_nan=False)
    """A streamed answer in which nothing leaves for so long says so with a comment: proxies cut silent connections."""
    overload_wait_s: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Patience with a guard that has no room at present."""
    guard_timeout_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """For the guard to judge text, from the moment it came, its end included; then the guard counts as failed."""
    client_timeout_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """For a client to take the next part of an answer; one that takes longer is left."""
    state_key_env: str | None = Field(default=None, pattern="^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable with the key that seals what upstreams want back in the client's next turn, signatures and
    encrypted reasoning; the same in all replicas. None: a key of this process, so that others cannot open it."""

    def state_key(self) -> bytes | None:
        """Return that key; None if each process has one of its own.

        Raises:
            ConfigError: The environment variable is not set, or what it holds is too short.
        """
        if self.state_key_env is None:
            return None
        key = os.environ.get(self.state_key_env, "")
        if len(key) < _MIN_KEY_CHARS:
            raise ConfigError(
                f"the environment variable {self.state_key_env} (gateway.state_key_env) must hold a key of at least"
                f" {_MIN_KEY_CHARS} characters, such as the output of: openssl rand -hex 32"
            )
        return key.encode("utf-8", "surrogateescape")
