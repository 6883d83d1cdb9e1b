"""A Gen guard behind an OpenAI-compatible endpoint."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from streamward.errors import UpstreamError
from streamward.generative.config import RemoteConfig
from streamward.generative.judgement import GenJudgement
from streamward.generative.parsing import parse_answer
from streamward.schema import Message, RiskLevel

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
        """
        self._config = config
        self._sleep = sleep
        key = config.api_key
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        self._client = httpx.Client(headers=headers, timeout=config.timeout, transport=transport)

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
            "messages": [{"role": message.role.value, "content": message.content} for message in messages],
            "temperature": 0,
            "max_tokens": self._config.max_tokens,
        }
        return _read_content(self._post(body))

    def _post(self, body: dict[str, Any]) -> httpx.Response:  # Any: JSON values
        url = f"{self._config.base_url.rstrip('/')}/chat/completions"
        problem = ""
        for attempt in range(self._config.max_retries + 1):
            wait = self._config.backoff * 2**attempt
            try:
                response = self._client.post(url, json=body)
            except _RETRIED as error:
                problem = type(error).__name__
            except httpx.HTTPError as error:
                raise UpstreamError(f"the guard's endpoint cannot be asked: {type(error).__name__}") from None
            else:
                if response.status_code < 400:
                    return response
                problem = f"status {response.status_code}"
                if response.status_code != 429 and response.status_code < 500:
                    break
                wait = _retry_after(response, default=wait, most=self._config.timeout)
            if attempt < self._config.max_retries:
                self._sleep(wait)
        raise UpstreamError(f"the guard's endpoint failed after {attempt + 1} tries: {problem}")


def _retry_after(response: httpx.Response, *, default: float, most: float) -> float:
    try:
        return min(most, max(0.0, float(response.headers["Retry-After"])))
    except (KeyError, ValueError):  # none, or a date
        return default


def _read_content(response: httpx.Response) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise UpstreamError("the guard's endpoint did not answer with a chat completion") from None
    if not isinstance(content, str):
        raise UpstreamError("the guard's endpoint answered without text")
    return content
