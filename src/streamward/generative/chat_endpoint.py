"""Asks a model behind an OpenAI-compatible endpoint for a text."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from streamward.errors import UpstreamError
from streamward.generative.config import RemoteConfig
from streamward.reasons import reason_of

_RETRIED = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)


class ChatEndpoint:
    """A model that answers chats. Thread-safe."""

    def __init__(
        self,
        config: RemoteConfig,
        *,
        name: str,
        temperature: float = 0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open a connection pool; nothing is asked yet.

        Args:
            config: Where and how patiently.
            name: Name of the endpoint in error messages, as in "the guard's endpoint".
            temperature: Temperature of sampling.
            transport: Replaced in tests.
            sleep: Replaced in tests.

        Raises:
            ConfigError: The environment variable that should hold the key does not.
        """
        self._config = config
        self._name = name
        self._temperature = temperature
        self._sleep = sleep
        key = config.secret()
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        self._client = httpx.Client(headers=headers, timeout=config.timeout_s, transport=transport)

    def write(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the model's answer.

        Raises:
            UpstreamError: The endpoint did not answer after all tries, or its answer is not a text.
        """
        response = self._post(
            {
                "model": self._config.model,
                "messages": list(messages),
                "temperature": self._temperature,
                "max_tokens": self._config.max_tokens,
            }
        )
        try:
            content = response.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise UpstreamError(f"{self._name} did not answer with a chat completion") from None
        if not isinstance(content, str):
            raise UpstreamError(f"{self._name} answered without text")
        return content

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _post(self, body: dict[str, Any]) -> httpx.Response:  # Any: JSON values
        url = f"{self._config.base_url.rstrip('/')}/chat/completions"
        problem = ""
        for attempt in range(self._config.max_retries + 1):
            wait = self._config.backoff_s * 2**attempt
            try:
                response = self._client.post(url, json=body)
            except _RETRIED as error:
                problem = reason_of(error)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise UpstreamError(f"{self._name} cannot be asked: {reason_of(error)}") from None
            else:
                if response.is_success:
                    return response
                problem = f"status {response.status_code}"
                if response.status_code != 429 and response.status_code < 500:
                    break
                wait = _retry_after(response, default=wait, most=self._config.timeout_s)
            if attempt < self._config.max_retries:
                self._sleep(wait)
        raise UpstreamError(f"{self._name} failed after {attempt + 1} tries: {problem}")


def _retry_after(response: httpx.Response, *, default: float, most: float) -> float:
    """Return the wait a server asks for, in seconds or as a date."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value) if not value.endswith("GMT") else _seconds_until(value)
    except (ValueError, TypeError):  # the header is missing or malformed
        return default
    return min(most, max(0.0, seconds))


def _seconds_until(date: str) -> float:
    return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
