"""Address of a guard, and limits for asking it."""

from typing import Self

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from streamward.api_keys import is_header_value, key_from
from streamward.settings import Settings


class EndpointConfig(Settings):
    """A guard behind an OpenAI-compatible endpoint (vLLM, SGLang, Ollama, OVHcloud AI Endpoints)."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a key in the wrong place would be shown

    base_url: str = Field(min_length=1, pattern=r"^https?://[^/\s@?#]+(/[^\s@?#]*)?$")
    """Up to and including `/v1`. No user, password or query in it: keys have their own settings."""
    model: str = Field(min_length=1)
    """Name of the guard there."""
    api_key: SecretStr | None = None
    """Sent as a bearer token."""
    api_key_env: str | None = Field(default=None, pattern="^[A-Za-z_][A-Za-z0-9_]*$")
    """Instead of it: the environment variable that holds it."""
    timeout_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """For each part of one try: connecting, sending, waiting for the next bytes of the answer."""
    max_retries: int = Field(default=2, ge=0)
    """Further tries after a timeout, a lost connection, status 429 or 5xx."""
    backoff_s: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    """Wait before the first further try; doubles each time. A server's Retry-After is kept, up to `timeout_s`."""

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not is_header_value(key.get_secret_value()):
            raise ValueError("must be printable ASCII without spaces, and not empty")
        return key

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("give api_key or api_key_env, not both")
        return self

    def secret(self) -> SecretStr | None:
        """Return the key given or named; None if there is neither.

        Raises:
            ConfigError: The environment variable is not set or holds no key.
        """
        return self.api_key if self.api_key_env is None else key_from(self.api_key_env)


class RemoteConfig(EndpointConfig):
    """A Gen guard behind an OpenAI-compatible endpoint, whose server renders the guard's own template."""

    max_tokens: int = Field(default=64, gt=0)
    """Maximum tokens of the guard's answer; it has three short lines."""
