"""From what a user names to a guard under test."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamward.errors import ConfigError
from streamward.evals.callable_guard import load_any_guardrail, load_callable
from streamward.evals.endpoint import ChatProtocol, EndpointGuard, ModerationsProtocol
from streamward.evals.formats import FORMATS
from streamward.evals.guards import GuardUnderTest, StreamwardGuard
from streamward.generative.config import RemoteConfig
from streamward.loading import find_checkpoint
from streamward.policy import Policy

MODERATIONS = "moderations"
FORMAT_NAMES = (*FORMATS, MODERATIONS)
ANY_GUARDRAIL = "any-guardrail:"
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """Options of guards behind an HTTP endpoint.

    Attributes:
        format_name: One of `FORMAT_NAMES`.
        key_env: Environment variable that holds the key; None sends none.
        concurrency: Requests at a time.
        timeout_s: Timeout of one attempt, seconds.
        max_retries: Further tries.
        template: See `ChatProtocol`.
        extra_body: See `ChatProtocol`.
    """

    format_name: str = "qwen3guard"
    key_env: str | None = None
    concurrency: int = 16
    timeout_s: float = 60.0
    max_retries: int = 4
    template: str | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON values


def open_guard(name: str, *, policy: Policy, endpoint: EndpointOptions) -> GuardUnderTest:
    """Open a guard.

    Args:
        name: `http://host/v1#model`, `module:function`, `any-guardrail:NAME`, or what `streamward.load` takes.
        policy: Policy of the run.
        endpoint: For guards behind an endpoint.

    Raises:
        ConfigError: A value is wrong or a package is not installed.
        CheckpointError: There is no such guard.
    """
    if name.startswith(("http://", "https://")):
        return _endpoint_guard(name, policy=policy, options=endpoint)
    if name.startswith(ANY_GUARDRAIL):
        return load_any_guardrail(name.removeprefix(ANY_GUARDRAIL), policy=policy)
    if _CALLABLE.fullmatch(name):
        return load_callable(name, policy=policy)
    return StreamwardGuard(name, policy=policy)


def check_guard(name: str, *, policy: Policy, endpoint: EndpointOptions) -> None:
    """Raise at once what `open_guard` would raise after the guards before it have run for hours.

    Raises:
        ConfigError: As `open_guard`.
        CheckpointError: As `open_guard`.
    """
    if name.startswith(("http://", "https://", ANY_GUARDRAIL)) or _CALLABLE.fullmatch(name):
        open_guard(name, policy=policy, endpoint=endpoint).close()
    else:
        find_checkpoint(name)


def _endpoint_guard(name: str, *, policy: Policy, options: EndpointOptions) -> EndpointGuard:
    base_url, _, model = name.partition("#")
    if not model:
        raise ConfigError("an endpoint's address needs the guard's name there: http://host/v1#model")
    if options.format_name not in FORMAT_NAMES:
        raise ConfigError(f"there is no format {options.format_name!r}; there are {', '.join(FORMAT_NAMES)}")
    values = {
        "base_url": base_url,
        "model": model,
        "api_key_env": options.key_env,
        "timeout_s": options.timeout_s,
        "max_retries": options.max_retries,
    }
    config = RemoteConfig.parse(values, source="endpoint")
    if options.format_name == MODERATIONS:
        return EndpointGuard(config, ModerationsProtocol(), policy=policy, concurrency=options.concurrency)
    answer_format = FORMATS[options.format_name]
    chat = ChatProtocol(options.format_name, answer_format, options.template, options.extra_body)
    return EndpointGuard(config, chat, policy=policy, concurrency=options.concurrency)
