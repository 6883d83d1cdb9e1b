"""Where a Gen guard is served, and how patiently it is asked."""

from pydantic import Field, SecretStr

from streamward.settings import Settings


class RemoteConfig(Settings):
    """A Gen guard behind an OpenAI-compatible endpoint (vLLM, SGLang, Ollama, OVHcloud AI Endpoints)."""

    base_url: str = Field(min_length=1, pattern="^https?://")
    """Up to and including `/v1`."""
    model: str = Field(min_length=1)
    """Name of the guard there."""
    api_key: SecretStr | None = None
    """Sent as a bearer token."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds for one try."""
    max_retries: int = Field(default=2, ge=0)
    """Further tries after a timeout, a lost connection, status 429 or 5xx."""
    backoff: float = Field(default=0.5, ge=0)
    """Seconds before the first further try; doubles each time. A server's Retry-After is kept, up to `timeout`."""
    max_tokens: int = Field(default=64, gt=0)
    """Of the guard's answer; it has three short lines."""
