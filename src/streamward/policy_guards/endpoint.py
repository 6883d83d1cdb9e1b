"""Asks a guard's endpoint, several questions at a time, within a deadline."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import httpx

from streamward.errors import StreamClosedError, UpstreamError, UpstreamUnavailableError
from streamward.guard_call import current_call
from streamward.policy_guards.config import PolicyGuardConfig
from streamward.policy_guards.exchange import EndpointAnswer, FormatRequest, read_answer
from streamward.policy_guards.rules import CallUsage
from streamward.reasons import reason_of

_RETRIED = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
_ABOUT_THE_TEXT = frozenset({400, 413, 422})  # of statuses: another text may well be answered
_MAX_ANSWER_BYTES = 2**20
_JOIN_S = 0.5


class GuardEndpoint:
    """Sends requests from a thread of its own, so that whoever waits can give up at any moment. Thread-safe.

    A request that nobody waits for any more is cancelled: its connection is closed, and the server stops writing.
    """

    def __init__(
        self,
        config: PolicyGuardConfig,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Open a connection pool; nothing is asked yet.

        Args:
            config: Where and how.
            transport: Replaced in tests.
            sleep: Waits between tries; replaced in tests.

        Raises:
            ConfigError: The environment variable that should hold the key does not.
        """
        self._config = config
        self._sleep = sleep
        key = config.secret()
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        self._client = httpx.AsyncClient(headers=headers, timeout=config.timeout_s, transport=transport)
        self._places = asyncio.Semaphore(config.max_concurrent)
        self._loop = asyncio.new_event_loop()
        self._is_closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, name="policy-guard", daemon=True)
        self._thread.start()

    def ask(
        self, requests: Sequence[FormatRequest], *, deadline_s: float | None = None
    ) -> tuple[list[EndpointAnswer], CallUsage]:
        """Send requests together and wait for all answers.

        Args:
            requests: In any number; at most `max_concurrent` are under way at a time.
            deadline_s: For all of them; by default the setting. The shorter of the two counts.

        Returns:
            The answers, in the order of the requests, and what they took.

        Raises:
            UpstreamError: One of them failed. The others are cancelled.
            UpstreamUnavailableError: So it is, and the server did not answer, or the deadline has passed.
            CallCancelledError: The current call was cancelled.
            StreamClosedError: The endpoint was closed.
        """
        call = current_call()
        call.check()
        most = self._config.deadline_s if deadline_s is None else min(deadline_s, self._config.deadline_s)
        waiting = self._submit(self._ask_all(requests, most))
        try:
            with call.waking(waiting.cancel):
                return waiting.result()
        except CancelledError:
            call.check()
            raise _closed() from None
        finally:
            waiting.cancel()  # does nothing to one that is done

    def close(self) -> None:
        """Cancel what is under way and close the connections. May be called again."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)
        self._thread.join(_JOIN_S)
        if not self._thread.is_alive():
            self._loop.close()

    def _submit(self, asking: Coroutine[Any, Any, Any]) -> "Future[tuple[list[EndpointAnswer], CallUsage]]":
        with self._lock:
            if self._is_closed:
                asking.close()
                raise _closed()
            return asyncio.run_coroutine_threadsafe(asking, self._loop)

    async def _shut_down(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()
        self._loop.stop()

    async def _ask_all(
        self, requests: Sequence[FormatRequest], deadline_s: float
    ) -> tuple[list[EndpointAnswer], CallUsage]:
        started = time.perf_counter()
        counter = _CallCounter()
        tasks = [asyncio.create_task(self._ask(request, counter)) for request in requests]
        try:
            async with asyncio.timeout(deadline_s):
                answers = await asyncio.gather(*tasks)
        except TimeoutError:
            raise UpstreamUnavailableError(f"the guard's endpoint did not answer within {deadline_s:g} s") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        usage = CallUsage(
            calls=counter.num_calls,
            prompt_tokens=sum(answer.prompt_tokens for answer in answers),
            cached_tokens=sum(answer.cached_tokens for answer in answers),
            completion_tokens=sum(answer.completion_tokens for answer in answers),
            seconds=time.perf_counter() - started,
        )
        return answers, usage

    async def _ask(self, request: FormatRequest, counter: "_CallCounter") -> EndpointAnswer:
        body = dict(request.body)
        body["model"] = self._config.model
        most = None if request.first_token_only else self._config.max_answer_tokens
        body[self._config.token_limit_field] = most or request.max_tokens
        if self._config.temperature is not None:
            body["temperature"] = self._config.temperature
        async with self._places:
            data = await self._post(request.path, body, counter)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise UpstreamError("the guard's endpoint did not answer with JSON") from None
        return read_answer(found, request)

    async def _post(self, path: str, body: dict[str, Any], counter: "_CallCounter") -> bytes:  # Any: JSON values
        url = f"{self._config.base_url.rstrip('/')}/{path}"
        problem = ""
        kind: type[UpstreamError] = UpstreamUnavailableError
        for attempt in range(self._config.max_retries + 1):
            wait = self._config.backoff_s * 2**attempt
            counter.num_calls += 1
            try:
                async with self._client.stream("POST", url, json=body) as response:
                    if response.is_success:
                        return await _read(response)
                    problem = f"status {response.status_code}"
                    if response.status_code != 429 and response.status_code < 500:
                        kind = UpstreamError if response.status_code in _ABOUT_THE_TEXT else kind
                        break
                    wait = min(_retry_after(response, default=wait), self._config.deadline_s)
            except _RETRIED as error:
                problem = reason_of(error)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise UpstreamUnavailableError(f"the guard's endpoint cannot be asked: {reason_of(error)}") from None
            if attempt < self._config.max_retries:
                await self._sleep(wait)
        raise kind(f"the guard's endpoint failed after {attempt + 1} tries: {problem}")


class _CallCounter:
    """Counts the requests that were sent for one text; used in one event loop."""

    def __init__(self) -> None:
        self.num_calls = 0


async def _read(response: httpx.Response) -> bytes:
    chunks, size = [], 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > _MAX_ANSWER_BYTES:
            raise UpstreamError(f"the guard's answer has more than {_MAX_ANSWER_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _retry_after(response: httpx.Response, *, default: float) -> float:
    """Return the seconds a server asks for; dates are not read, the deadline is shorter than they can tell."""
    with contextlib.suppress(ValueError):
        return max(default, float(response.headers.get("Retry-After", "")))
    return default


def _closed() -> StreamClosedError:
    return StreamClosedError("the guard's endpoint was closed")
