"""Guards behind an OpenAI-compatible endpoint: many rows at once, retries, and marked rows where nothing helps."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from streamward.errors import UpstreamError
from streamward.evals.formats import AnswerFormat
from streamward.evals.guards import labelled
from streamward.evals.predictions import LabelledRow, Prediction
from streamward.evals.taxonomies import OPENAI_MODERATION
from streamward.generative.config import RemoteConfig
from streamward.policy import Policy
from streamward.reasons import reason_of
from streamward.schema import Category, RiskLevel, Side
from streamward.tokenizer import clean_text

_ROWS_PER_CONNECTION = 8
_MAX_WAIT_S = 60.0
_RETRIED = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, TimeoutError)
Json = dict[str, Any]  # Any: JSON values


class WireProtocol(Protocol):
    """One way of asking an endpoint."""

    @property
    def kind(self) -> str:
        """Kind of guard, in the report."""
        ...

    @property
    def path(self) -> str:
        """Behind the base address."""
        ...

    def body(self, row: LabelledRow, model: str) -> Json:
        """Return what is posted."""
        ...

    def read(self, answer: Any, row: LabelledRow) -> dict[str, Any]:  # Any: JSON values; fields of a prediction
        """Return `risk_level` and further fields of the prediction.

        Raises:
            UpstreamError: The answer cannot be read. Says why, without its text.
        """
        ...

    def settings(self) -> Json:
        """Return what identifies it."""
        ...


@dataclass(frozen=True, slots=True)
class ChatProtocol:
    """Asks for a chat completion; the server renders the guard's own template.

    Attributes:
        format_name: Name of the format, for the report.
        answer_format: How the answer is read.
        template: A text with `{prompt}` and `{response}` that is sent as the one user message, for servers that have no
            template of the guard; None sends the turns.
        extra_body: Further keys of the request, such as `chat_template_kwargs`.
    """

    format_name: str
    answer_format: AnswerFormat
    template: str | None
    extra_body: Mapping[str, Any]  # Any: JSON values
    kind: str = "endpoint"
    path: str = "chat/completions"

    def body(self, row: LabelledRow, model: str) -> Json:
        """Return a chat request."""
        messages = [] if self.answer_format.system is None else [_message("system", self.answer_format.system)]
        prompt, response = (row.text, None) if row.side is Side.PROMPT else (row.prompt or "", row.text)
        if self.template is not None:
            filled = self.template.split("{response}")
            text = (response or "").join(part.replace("{prompt}", prompt) for part in filled)
            messages.append(_message("user", text))
        else:
            messages.append(_message("user", prompt))  # empty where a response comes alone: templates want a user
            messages += [] if response is None else [_message("assistant", response)]
        most = self.answer_format.max_tokens
        return {"model": model, "messages": messages, "temperature": 0, "max_tokens": most, **self.extra_body}

    def read(self, answer: Any, row: LabelledRow) -> dict[str, Any]:  # Any: JSON values
        """Read the text of the first choice."""
        try:
            content = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise UpstreamError("the endpoint did not answer with a chat completion") from None
        if not isinstance(content, str):
            raise UpstreamError("the endpoint answered without text")
        reply = self.answer_format.parse(content, row.side)
        return {"risk_level": reply.risk_level, "category": reply.category, "refusal": reply.refusal}

    def settings(self) -> Json:
        """Return format, template and further keys."""
        return {"format": self.format_name, "template": self.template, "extra_body": dict(self.extra_body)}


@dataclass(frozen=True, slots=True)
class ModerationsProtocol:
    """Asks `/v1/moderations` about the judged text alone: that interface knows no conversation."""

    kind: str = "moderations"
    path: str = "moderations"

    def body(self, row: LabelledRow, model: str) -> Json:
        """Return a moderation request."""
        return {"model": model, "input": clean_text(row.text)}

    def read(self, answer: Any, row: LabelledRow) -> dict[str, Any]:  # Any: JSON values
        """Read the first result; the highest score of a category is P(Unsafe)."""
        try:
            result = answer["results"][0]
            is_flagged, flags = result["flagged"], result.get("categories") or {}
            scores = {name: float(score) for name, score in (result.get("category_scores") or {}).items()}
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise UpstreamError("the endpoint did not answer with a moderation") from None
        if not isinstance(is_flagged, bool):
            raise UpstreamError("the endpoint's `flagged` is neither true nor false")
        facts: dict[str, Any] = {"risk_level": RiskLevel.UNSAFE if is_flagged else RiskLevel.SAFE}
        if scores:
            most = min(1.0, max(0.0, max(scores.values())))
            facts["probabilities"] = {RiskLevel.SAFE: 1 - most, RiskLevel.CONTROVERSIAL: 0.0, RiskLevel.UNSAFE: most}
        if is_flagged:
            named = sorted((name for name, holds in flags.items() if holds), key=lambda name: -scores.get(name, 0.0))
            facts["category"] = next((found for name in named if (found := _category(name))), None)
        return facts

    def settings(self) -> Json:
        """Return the format's name."""
        return {"format": "moderations"}


def _category(name: str) -> Category | None:
    return OPENAI_MODERATION.get(str(name).lower())


class EndpointGuard:
    """Asks an endpoint about many rows at once, at most so many at a time.

    A row that stays without a readable answer after all tries is a prediction with an error.
    """

    def __init__(
        self,
        config: RemoteConfig,
        protocol: WireProtocol,
        *,
        policy: Policy,
        concurrency: int = 16,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            config: Where and how patiently.
            protocol: What is posted and how it is read.
            policy: Policy of the run.
            concurrency: Most requests at a time.
            transport: Replaced in tests.

        Raises:
            ConfigError: The environment variable that should hold the key does not.
        """
        key = config.secret()
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        self._config = config
        self._protocol = protocol
        self._policy = policy
        self._concurrency = concurrency
        self._runner = asyncio.Runner()
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = httpx.AsyncClient(headers=headers, timeout=config.timeout_s, transport=transport, limits=limits)

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self._config.model

    @property
    def batch_rows(self) -> int:
        """Some rows for each connection, so that one slow answer holds up little."""
        return _ROWS_PER_CONNECTION * self._concurrency

    def describe(self) -> Mapping[str, Any]:  # Any: JSON values
        """Return address, model and format; never the key."""
        return {
            "name": self.name,
            "kind": self._protocol.kind,
            "policy": self._policy.model_dump(mode="json"),
            "settings": {"base_url": self._config.base_url, **self._protocol.settings()},
        }

    def judge(self, rows: Sequence[LabelledRow], *, keeps_tokens: bool) -> list[Prediction]:
        """Ask about all rows; endpoints have no tokens to keep."""
        start = time.perf_counter()
        found = self._runner.run(self._judge_all(rows))
        share_ms = (time.perf_counter() - start) * 1e3 / max(1, len(rows))
        return [make(share_ms) for make in found]

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    async def _judge_all(self, rows: Sequence[LabelledRow]) -> list[Callable[[float], Prediction]]:
        slots = asyncio.Semaphore(self._concurrency)

        async def judge(row: LabelledRow) -> Callable[[float], Prediction]:
            async with slots:
                start = time.perf_counter()
                try:
                    facts = await self._ask(row)
                except UpstreamError as error:
                    code = error.code
                    return lambda share_ms: Prediction(row.id, error=code, cost_ms=share_ms)
                latency_ms = (time.perf_counter() - start) * 1e3
            level = facts.pop("risk_level")
            return lambda share_ms: labelled(
                row, level, policy=self._policy, **facts, latency_ms=latency_ms, cost_ms=share_ms
            )

        return await asyncio.gather(*(judge(row) for row in rows))

    async def _ask(self, row: LabelledRow) -> dict[str, Any]:  # Any: fields of a prediction
        """Post and read; an answer that cannot be read is asked for again, like one that did not come."""
        body = self._protocol.body(row, self._config.model)
        problem = UpstreamError("the endpoint was not asked")
        for attempt in range(self._config.max_retries + 1):
            wait_s = self._config.backoff_s * 2**attempt
            try:
                response = await self._post(body)
            except _RETRIED as error:
                problem = UpstreamError(f"the endpoint failed: {reason_of(error)}")
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise UpstreamError(f"the endpoint cannot be asked: {reason_of(error)}") from None
            else:
                if response.is_success:
                    try:
                        return self._protocol.read(_json(response), row)
                    except UpstreamError as error:
                        problem = error
                else:
                    problem = UpstreamError(f"the endpoint failed with status {response.status_code}")
                    if response.status_code != 429 and response.status_code < 500:
                        raise problem
                    wait_s = _retry_after(response, default=wait_s)
            if attempt < self._config.max_retries:
                # Jitter, so that not all calls retry at once.
                await asyncio.sleep(min(wait_s, _MAX_WAIT_S) * random.uniform(0.8, 1.2))
        raise problem

    async def _post(self, body: Json) -> httpx.Response:
        url = f"{self._config.base_url.rstrip('/')}/{self._protocol.path}"
        async with asyncio.timeout(self._config.timeout_s):  # of the whole answer; httpx counts its parts
            return await self._client.post(url, json=body)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": clean_text(content)}


def _json(response: httpx.Response) -> Any:  # Any: JSON values
    try:
        return response.json()
    except (ValueError, RecursionError):
        raise UpstreamError("the endpoint did not answer with JSON") from None


def _retry_after(response: httpx.Response, *, default: float) -> float:
    """Return the seconds a server asks to wait; dates are not understood and wait the default."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return default
