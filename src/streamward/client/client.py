"""`streamward.connect`: a client of a running service, with the methods of a `Moderator`."""

import asyncio
import json
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx
from pydantic import TypeAdapter

from streamward.client.replies import JsonObject, ModerationList, ServiceResult, error_of_response, parse
from streamward.client.sockets import AsyncSocket, BlockingSocket, Endpoint
from streamward.client.stream_protocol import StreamProtocol
from streamward.client.streams import AsyncRemoteStream, RemoteStream
from streamward.closing import ClosedOnExit
from streamward.errors import ConfigError, InputError, UpstreamError
from streamward.reasons import reason_of
from streamward.schema import Message, Side

API_KEY_ENV = "STREAMWARD_API_KEY"
"""Environment variable with the key of a service or an endpoint."""
MessageLike = Message | Mapping[str, Any]  # Any: JSON values
T = TypeVar("T")
_JSON = {"Content-Type": "application/json"}
_SOCKET_SCHEMES = {"http": "ws", "https": "wss"}
_GUARD: TypeAdapter[ServiceResult] = TypeAdapter(ServiceResult)
_MODERATIONS: TypeAdapter[ModerationList] = TypeAdapter(ModerationList)


def connect(
    url: str,
    *,
    api_key: str | None = None,
    policy: str | None = None,
    timeout_s: float = 60.0,
    resume_s: float = 30.0,
    ssl_context: ssl.SSLContext | None = None,
) -> "Client":
    """Return a client of a running service. Nothing is sent before its first call.

    Args:
        url: Address of the service, as `http://127.0.0.1:8000`; a `/v1` at its end is ignored.
        api_key: Key of the service; by default the environment variable STREAMWARD_API_KEY, if it is set.
        policy: Name of a policy of the service; by default the key's.
        timeout_s: Longest wait for a reply, in seconds.
        resume_s: Longest time for which a stream tries to resume after a lost connection, in seconds. The service keeps
            it for `streams.resume_s`.
        ssl_context: Certificates to trust; by default the usual ones.

    Raises:
        ConfigError: The address is no URL of the service.
    """
    return Client(url, api_key=api_key, policy=policy, timeout_s=timeout_s, resume_s=resume_s, ssl_context=ssl_context)


class Client(ClosedOnExit):
    """A running service, for threads and for asyncio. From `streamward.connect`; close it, or use it in a block.

    The methods and results are those of `Moderator`, and errors of the service are the exceptions that a moderator
    raises. Where the service cannot be reached, an UpstreamError is raised: nothing was judged.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        policy: str | None = None,
        timeout_s: float = 60.0,
        resume_s: float = 30.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare a client; see `connect`."""
        base_url, socket_url = _addresses(url)
        key = os.environ.get(API_KEY_ENV) if api_key is None else api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        verify: ssl.SSLContext | bool = True if ssl_context is None else ssl_context
        self._policy = policy
        self._resume_s = resume_s
        self._endpoint = Endpoint(f"{socket_url}/v1/streams", headers, timeout_s, ssl_context)
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout_s, verify=verify)
        self._open_async = partial(
            httpx.AsyncClient, base_url=base_url, headers=headers, timeout=timeout_s, verify=verify
        )
        self._async: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()

    async def __aenter__(self) -> Self:
        """Return the client; it is closed at the end of the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.aclose()

    def moderate(
        self,
        prompt: str | None = None,
        response: str | None = None,
        messages: Sequence[MessageLike] | None = None,
        *,
        policy: str | None = None,
        verdicts: bool = False,
    ) -> ServiceResult:
        """Judge a prompt, a response, or both; or the last turns of a conversation (`POST /v1/guard`).

        Args:
            prompt: The user's text.
            response: The assistant's text; judged in the light of the prompt, if there is one.
            messages: Instead of both: a conversation, as `Message` or as OpenAI's clients write it.
            policy: Name of a policy for this call.
            verdicts: Whether to return the verdict of every token.

        Raises:
            StreamwardError: As `Moderator.moderate`; besides, AuthenticationError, ForbiddenError, RateLimitError and
                AuditError of the service, and UpstreamError where it cannot be reached.
        """
        body = self._guard_body(prompt, response, messages, policy=policy, verdicts=verdicts)
        return parse(_GUARD, self._post("/v1/guard", body))

    async def amoderate(
        self,
        prompt: str | None = None,
        response: str | None = None,
        messages: Sequence[MessageLike] | None = None,
        *,
        policy: str | None = None,
        verdicts: bool = False,
    ) -> ServiceResult:
        """Like `moderate`, for asyncio."""
        body = self._guard_body(prompt, response, messages, policy=policy, verdicts=verdicts)
        return parse(_GUARD, await self._apost("/v1/guard", body))

    def moderations(
        self, texts: str | Sequence[str], *, side: Side = Side.PROMPT, policy: str | None = None
    ) -> ModerationList:
        """Judge one or more texts in OpenAI's format (`POST /v1/moderations`).

        Args:
            texts: A text, or texts with a result each.
            side: Whether they are prompts or responses.
            policy: Name of a policy for this call.

        Raises:
            StreamwardError: As `moderate`.
        """
        return parse(_MODERATIONS, self._post("/v1/moderations", self._moderations_body(texts, side, policy)))

    async def amoderations(
        self, texts: str | Sequence[str], *, side: Side = Side.PROMPT, policy: str | None = None
    ) -> ModerationList:
        """Like `moderations`, for asyncio."""
        return parse(_MODERATIONS, await self._apost("/v1/moderations", self._moderations_body(texts, side, policy)))

    def stream(
        self,
        prompt: str | None = None,
        messages: Sequence[MessageLike] | None = None,
        *,
        policy: str | None = None,
    ) -> RemoteStream:
        """Judge a response while it is generated, over a WebSocket of its own; for `with`.

        Args:
            prompt: The user's text. Neither prompt nor messages: the response is judged by itself.
            messages: Instead of it: the conversation up to the user's last turn.
            policy: Name of a policy for this stream.
        """
        return RemoteStream(self._protocol(prompt, messages, policy), BlockingSocket(self._endpoint))

    def astream(
        self,
        prompt: str | None = None,
        messages: Sequence[MessageLike] | None = None,
        *,
        policy: str | None = None,
    ) -> AsyncRemoteStream:
        """Like `stream`, for `async with`."""
        return AsyncRemoteStream(self._protocol(prompt, messages, policy), AsyncSocket(self._endpoint))

    def close(self) -> None:
        """Close the connections of blocking calls. Streams have connections of their own."""
        self._http.close()

    async def aclose(self) -> None:
        """Close the connections of blocking calls, and those of the running event loop."""
        self._http.close()
        client = self._async.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _post(self, path: str, body: JsonObject) -> bytes:
        data = _encoded(body)
        try:
            response = self._http.post(path, content=data, headers=_JSON)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        return _content(response)

    async def _apost(self, path: str, body: JsonObject) -> bytes:
        data, loop = _encoded(body), asyncio.get_running_loop()
        client = self._async.get(loop)
        if client is None:
            client = self._async[loop] = self._open_async()
        try:
            response = await client.post(path, content=data, headers=_JSON)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        return _content(response)

    def _guard_body(
        self,
        prompt: str | None,
        response: str | None,
        messages: Sequence[MessageLike] | None,
        *,
        policy: str | None,
        verdicts: bool,
    ) -> JsonObject:
        body = {"prompt": prompt, "response": response, "messages": _plain(messages), "policy": policy or self._policy}
        return {**_given(body), "verdicts": verdicts}

    def _moderations_body(self, texts: str | Sequence[str], side: Side, policy: str | None) -> JsonObject:
        given = texts if isinstance(texts, str) else list(texts)
        return {"input": given, "streamward": _given({"side": side.value, "policy": policy or self._policy})}

    def _protocol(
        self, prompt: str | None, messages: Sequence[MessageLike] | None, policy: str | None
    ) -> StreamProtocol:
        body = {"prompt": prompt, "messages": _plain(messages), "policy": policy or self._policy}
        return StreamProtocol({"type": "open", "ref": "stream", **_given(body)}, resume_s=self._resume_s)


def _addresses(url: str) -> tuple[str, str]:
    """Return the addresses for HTTP and for WebSockets."""
    parts = urlsplit(url)
    if parts.scheme not in _SOCKET_SCHEMES or not parts.netloc:
        raise ConfigError("the address of a service is a URL such as http://127.0.0.1:8000")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}", f"{_SOCKET_SCHEMES[parts.scheme]}://{parts.netloc}{path}"


def _encoded(body: JsonObject) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:  # the text has half a surrogate pair, or a value is of another type
        raise InputError("the texts cannot be sent: they must be valid Unicode, and messages JSON values") from error


def _content(response: httpx.Response) -> bytes:
    if response.is_success:
        return response.content
    raise error_of_response(response.status_code, response.headers, response.content)


def _unreachable(error: httpx.HTTPError) -> UpstreamError:
    return UpstreamError(f"the service cannot be reached: {reason_of(error)}")


def _given(values: JsonObject) -> JsonObject:
    return {name: value for name, value in values.items() if value is not None}


def _plain(messages: Sequence[MessageLike] | None) -> list[JsonObject] | None:
    if messages is None:
        return None
    return [_given(asdict(each)) if is_dataclass(each) else dict(each) for each in messages]
