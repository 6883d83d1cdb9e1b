"""Asks a model behind an OpenAI-compatible endpoint for a text."""

import time
from collections.abc import Callable, Mapping, Sequence

import httpx

from streamward.errors import UpstreamError
from streamward.generative.config import RemoteConfig
from streamward.reasons import reason_of

_RETRIED = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
_MAX_RETRY_AFTER_S = 60.0


class ChatModel:
    """A model that writes. Thread-safe."""

    def __init__(
        self,
        config: RemoteConfig,
        *,
        temperature: float,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open a connection pool; nothing is asked yet.

        Args:
            config: Where, and how patiently.
            temperature: Of sampling.
            transport: Replaced in tests.
            sleep: Replaced in tests.

        Raises:
            ConfigError: The environment variable that should hold the key does not.
        """
        self._config = config
        self._temperature = temperature
        self._sleep = sleep
        key = config.secret()
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        self._client = httpx.Client(headers=headers, timeout=config.timeout_s, transport=transport)

    def write(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the model's answer.

        Raises:
            UpstreamError: The endpoint did not answer after all tries, or not with a text.
        """
        body = {
            "model": self._config.model,
            "messages": list(messages),
            "temperature": self._temperature,
            "max_tokens": self._config.max_tokens,
        }
        url = f"{self._config.base_url.rstrip('/')}/chat/completions"
        wait = self._config.backoff_s
        for tries_left in range(self._config.max_retries, -1, -1):
            try:
                response = self._client.post(url, json=body)
            except _RETRIED as error:
                problem = reason_of(error)
            except httpx.HTTPError as error:
                raise UpstreamError(f"the writer's endpoint cannot be asked: {reason_of(error)}") from None
            else:
                if response.is_success:
                    return _content(response)
                problem = f"status {response.status_code}"
                if response.status_code != 429 and response.status_code < 500:
                    break
                wait = _retry_after(response) or wait
            if tries_left:
                self._sleep(wait)
                wait *= 2
        raise UpstreamError(f"the writer's endpoint failed: {problem}")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), _MAX_RETRY_AFTER_S) if value.isdecimal() else None


def _content(response: httpx.Response) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise UpstreamError("the writer's endpoint did not answer with a chat completion") from None
    if not isinstance(content, str):
        raise UpstreamError("the writer's endpoint answered without text")
    return content
