"""A Gen guard behind an OpenAI-compatible endpoint."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from streamward.errors import UpstreamError
from streamward.generative.config import RemoteConfig
from streamward.generative.judgement import GenJudgement
from streamward.generative.parsing import parse_answer
from streamward.reasons import reason_of
from streamward.schema import Message, RiskLevel
from streamward.tokenizer import clean_text

_RETRIED = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)


class RemoteGenGuard:
    """Asks for whole judgements; the server renders the guard's own template. Thread-safe."""

    def __init__(
        self,
        config: RemoteConfig,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open a connection pool; nothing is asked yet.

        Args:
            config: Where and how.
            transport: Replaced in tests.
            sleep: Replaced in tests.

        Raises:
            ConfigError: The environment variable that should hold the key does not.
        """
        self._config = config
        self._sleep = sleep
        key = config.secret()
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        self._client = httpx.Client(headers=headers, timeout=config.timeout_s, transport=transport)

    def judge(self, messages: Sequence[Message]) -> GenJudgement:
        """Judge the last message in the light of those before it.

        The endpoint gives no probabilities: the level it names has 1, the others 0.

        Raises:
            UpstreamError: The endpoint did not answer, or not with a judgement.
        """
        answer = parse_answer(self._ask(messages))
        probabilities = {level: float(level is answer.risk_level) for level in RiskLevel}
        return GenJudgement(answer.risk_level, probabilities, answer.categories, answer.refusal)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, messages: Sequence[Message]) -> str:
        body = {
            "model": self._config.model,
            "messages": [_wire_message(message) for message in messages],
            "temperature": 0,
            "max_tokens": self._config.max_tokens,
        }
        return _read_content(self._post(body))

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
                raise UpstreamError(f"the guard's endpoint cannot be asked: {reason_of(error)}") from None
            else:
                if response.is_success:
                    return response
                problem = f"status {response.status_code}"
                if response.status_code != 429 and response.status_code < 500:
                    break
                wait = _retry_after(response, default=wait, most=self._config.timeout_s)
            if attempt < self._config.max_retries:
                self._sleep(wait)
        raise UpstreamError(f"the guard's endpoint failed after {attempt + 1} tries: {problem}")


def _wire_message(message: Message) -> dict[str, str]:
    wire = {"role": message.role.value, "content": clean_text(message.content)}
    if message.reasoning is not None:
        wire["reasoning_content"] = clean_text(message.reasoning)  # as chat templates and vLLM call it
    return wire


def _retry_after(response: httpx.Response, *, default: float, most: float) -> float:
    """Return the wait a server asks for, in seconds or as a date."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value) if not value.endswith("GMT") else _seconds_until(value)
    except (ValueError, TypeError):  # no header, or nonsense
        return default
    return min(most, max(0.0, seconds))


def _seconds_until(date: str) -> float:
    return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()


def _read_content(response: httpx.Response) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise UpstreamError("the guard's endpoint did not answer with a chat completion") from None
    if not isinstance(content, str):
        raise UpstreamError("the guard's endpoint answered without text")
    return content
