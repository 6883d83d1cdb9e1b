"""A vLLM engine in this process, or the address of a vLLM server. Imports without torch and without vLLM."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ConfigDict, Field, SecretStr, model_validator

from streamward.api_keys import key_from
from streamward.errors import ConfigError
from streamward.settings import Settings


class VllmConfig(Settings):
    """Settings for reading a Stream guard with vLLM."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a key in the wrong place would be shown

    url: str | None = Field(default=None, pattern=r"^https?://[^/\s@?#]+(/[^\s@?#]*)?$")
    """Address of `vllm serve`, without `/v1`; without one, vLLM runs in this process."""
    model: str | None = Field(default=None, min_length=1)
    """Name of the guard there; not needed where the server has one model."""
    api_key_env: str | None = Field(default=None, pattern="^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the server's key."""
    timeout_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """For one answer, with all the waiting inside vLLM."""
    max_streams: int = Field(default=1024, gt=0)
    """Streams open at the same time."""
    max_stream_tokens: int | None = Field(default=None, gt=0)
    """Tokens of one stream; by default what checkpoint and engine allow."""
    options: Mapping[str, Any] = Field(default_factory=dict)  # Any: vLLM's own
    """Further arguments of vLLM's engine in this process by its own names, as `tensor_parallel_size`, `block_size`,
    `gpu_memory_utilization`, `kv_cache_memory_bytes`."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.url is None and (self.model is not None or self.api_key_env is not None):
            raise ValueError("model and api_key_env are of a server; give its url too")
        if self.url is not None and self.options:
            raise ValueError("options are of an engine in this process; give them to `vllm serve` instead")
        return self

    @classmethod
    def of(cls, text: str) -> Self:
        """Read `vllm`, or a server's address.

        Raises:
            ConfigError: It is neither.
        """
        if text == "vllm":
            return cls()
        if text.startswith(("http://", "https://")):
            return cls.parse({"url": text}, source="vllm")
        raise ConfigError(f"vllm is {text!r}; it must be `vllm` or the address of a vLLM server (http://host:port)")

    def secret(self) -> SecretStr | None:
        """Return the server's key; None if it needs none.

        Raises:
            ConfigError: The environment variable is not set or holds no key.
        """
        return None if self.api_key_env is None else key_from(self.api_key_env)
