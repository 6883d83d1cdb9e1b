"""Settings of a guard that reads policies: its address, its format, and limits for asking it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from streamward.generative.config import EndpointConfig
from streamward.settings import Settings


class GuardFormatName(StrEnum):
    """Published formats of guards that read policies; see docs/policy-guards.md."""

    GPT_OSS_SAFEGUARD = "gpt-oss-safeguard"
    LLAMA_GUARD = "llama-guard"
    SHIELDGEMMA = "shieldgemma"
    GRANITE_GUARDIAN = "granite-guardian"
    NEMOTRON = "nemotron"
    DYNAGUARD = "dynaguard"
    QWEN3GUARD = "qwen3guard"
    JSON_SCHEMA = "json-schema"


class PolicyGuardConfig(EndpointConfig):
    """A guard behind an OpenAI-compatible endpoint that is given the policy's words with every text."""

    format: GuardFormatName
    """Format of its requests and answers."""
    variant: str | None = None
    """Version of the format, where there are several; by default the newest. llama-guard: 3, 4.
    granite-guardian: 4.1, 3.3. nemotron: custom-taxonomy, custom-policy, reasoning-4b. qwen3guard: rendered, server."""
    thinking: bool = False
    """If true, the guard reasons before it answers, where it can do both: slower, and its reasons come back."""
    deadline_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """For all answers about one text, further tries included; then the guard counts as failed."""
    timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """For each part of one try: connecting, sending, waiting for the next bytes of the answer."""
    max_retries: int = Field(default=1, ge=0, le=10)
    """Further tries of a request after a timeout, a lost connection, status 429 or 5xx."""
    backoff_s: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    """Wait before the first further try; doubles each time. A server's Retry-After is kept, up to the deadline."""
    max_concurrent: int = Field(default=16, gt=0)
    """Requests at the same time, of all texts together."""
    max_answer_tokens: int | None = Field(default=None, gt=0)
    """Maximum tokens of one answer; by default what the format needs."""
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The server's name for that limit: OpenAI's reasoning models want the second."""
    temperature: float | None = Field(default=0.0, ge=0, allow_inf_nan=False)
    """None leaves it out, for models that refuse it."""
    categories: Mapping[str, str] = {}
    """Format qwen3guard, variant server: the name of each rule in the category list of the server's template."""


class RuleConfig(Settings):
    """One rule in words, which the guard of a `[second_opinion]` reads."""

    id: str = Field(min_length=1, max_length=64)
    """Names the rule in findings."""
    text: str = Field(min_length=1)
    """Text of the rule: content that is not allowed."""
    severity: Literal["Unsafe", "Controversial"] = "Unsafe"
    """Level of a text that violates it; the policy says what follows from the level."""
    applies_to: tuple[Literal["prompt", "response", "tool_arguments", "tool_results"], ...] = (
        "prompt",
        "response",
        "tool_arguments",
        "tool_results",
    )
    """Texts it is about."""
    examples: tuple[str, ...] = ()
    """Texts that violate it."""
    counter_examples: tuple[str, ...] = ()
    """Texts that look alike and do not."""


class SecondOpinionConfig(Settings):
    """A slower guard that is asked where the fast one is unsure, or where a rule needs it."""

    guard: PolicyGuardConfig
    """Address and format of the second guard."""
    band: tuple[float, float] | None = (0.3, 0.8)
    """Probabilities of harm between which the fast guard is unsure: at or over the first, the second guard is asked;
    the fast one flags by itself only at or over the second, or at a threshold that the policy states. None: the fast
    guard decides about the built-in categories alone, and only rules are asked about."""
    rules: tuple[RuleConfig, ...] = ()
    """Rules that every text is judged by, whatever the fast guard says, besides those of the policy."""
    hold: Literal["unsure", "sentence"] = "unsure"
    """Text that waits for the second opinion: from the first unsure token on, or every sentence from its beginning."""
    min_chars: int = Field(default=40, ge=0)
    """Shorter sentences wait for the next one, so that fewer calls are made."""
    max_held_chars: int = Field(default=600, gt=0)
    """Text without the end of a sentence is asked about when it is so long."""
    max_calls: int = Field(default=32, ge=2)
    """Questions about one response. From the half on, each next one waits for twice as much text; the last is kept for
    the end."""
    max_failures: int = Field(default=5, ge=0)
    """Questions in a row that the guard leaves unanswered (late, out of reach, status 5xx) after which it is asked no
    more: texts that need it get the policy's `on_error` at once. 0 asks always."""
    retry_after_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Seconds after which one question tries such a guard again; the others follow once it is answered."""
    max_context_chars: int = Field(default=16_000, gt=0)
    """Maximum characters sent of the end of the conversation before the response, and of the end of the response."""

    @model_validator(mode="after")
    def _has_a_band_in_order(self) -> Self:
        if self.band is not None and not 0.0 < self.band[0] < self.band[1] <= 1.0:
            raise ValueError("band must be two probabilities, the first over 0 and under the second")
        if self.band is None and not self.rules:
            raise ValueError("there is no band and no rule, so the second guard would never be asked")
        return self
