"""Where a guard that reads policies is served, which format it speaks, and how patiently it is asked."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from pydantic import Field

from streamward.generative.config import EndpointConfig


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
    """How it is asked, and how it answers."""
    variant: str | None = None
    """Which version of the format, where there are several; by default the newest. llama-guard: 3, 4.
    granite-guardian: 4.1, 3.3. nemotron: custom-taxonomy, custom-policy, reasoning-4b. qwen3guard: rendered, server."""
    thinking: bool = False
    """Whether the guard reasons before it answers, where it can do both: slower, and its reasons come back."""
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
    """Of one answer; by default what the format needs."""
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls that limit: OpenAI's reasoning models want the second."""
    temperature: float | None = Field(default=0.0, ge=0, allow_inf_nan=False)
    """None leaves it out, for models that refuse it."""
    categories: Mapping[str, str] = {}
    """Format qwen3guard, variant server: the name of each rule in the category list of the server's template."""
