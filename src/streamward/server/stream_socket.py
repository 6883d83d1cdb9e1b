"""`WS /v1/streams`: many streams over one connection."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from streamward.errors import InputError, OverloadedError, StreamClosedError, StreamwardError
from streamward.observability import defect
from streamward.server.auth import SUBPROTOCOL, Caller, caller_of, count, identify
from streamward.server.errors import answer_for
from streamward.server.middleware import refuse
from streamward.server.sessions import StreamSession
from streamward.server.state import service_state
from streamward.server.stream_wire import (
    CLIENT_MESSAGE,
    AppendMessage,
    ClientMessage,
    Closed,
    CloseMessage,
    Events,
    Failed,
    Opened,
    OpenMessage,
    Resumed,
    ResumeMessage,
)
from streamward.server.streams import open_session, resumed, stream_registry
from streamward.validation import findings

logger = logging.getLogger(__name__)

router = APIRouter()

_MAX_PENDING = 64  # messages of one connection that are worked on at the same time
_SEND_TIMEOUT_S = 30.0
Reply = Opened | Events | Closed | Resumed | Failed


@router.websocket("/v1/streams")
async def streams(websocket: WebSocket) -> None:
    """Judge streams for as long as the connection lasts; they outlive it for a while, to be resumed."""
    state = service_state(websocket)
    try:
        caller = caller_of(websocket)
        count(websocket, caller)
        state.admission.check_open()
    except StreamwardError as error:
        state.metrics.rejected(error.code)
        await refuse(websocket.scope, websocket.receive, websocket.send, error)
        return
    offered = websocket.scope.get("subprotocols", [])
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    await Connection(websocket, caller).run()


class Connection:
    """One WebSocket and the streams that belong to it."""

    def __init__(self, websocket: WebSocket, caller: Caller) -> None:
        """Take over an accepted connection."""
        self._websocket = websocket
        self._caller = caller
        self._state = service_state(websocket)
        self._registry = stream_registry(websocket)
        self._sessions: dict[str, StreamSession] = {}
        self._num_opening = 0
        self._pending = asyncio.Semaphore(_MAX_PENDING)
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Work until the client leaves or says something that cannot be read, or its key ends."""
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                message = await self._receive()
                self._caller = await identify(self._websocket)  # the key may have expired since
                await self._pending.acquire()
                task = asyncio.create_task(self._work(message))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except WebSocketDisconnect:
            pass
        except StreamwardError as error:
            await self._end(error)
        finally:
            for session in self._sessions.values():
                session.detach(self)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self) -> ClientMessage:
        try:
            async with asyncio.timeout(self._state.config.streams.socket_idle_s):
                received: Mapping[str, object] = await self._websocket.receive()
        except TimeoutError as error:
            raise StreamClosedError("nothing was said for too long (streams.socket_idle_s)") from error
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        data = received.get("text") if received.get("text") is not None else received.get("bytes")
        assert isinstance(data, str | bytes)
        try:
            return CLIENT_MESSAGE.validate_json(data)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            found = findings(problems, ClientMessage, names_keys=False, table="an object", whole="the message")
            raise InputError(f"the message cannot be read: {'; '.join(map(str, found))}") from error

    async def _work(self, message: ClientMessage) -> None:
        """Do what a message asks, and answer. Messages of one stream keep their order: its lock is fair."""
        try:
            await self._send(await self._answer(message))
        finally:
            self._pending.release()  # only now: a client that takes no answers can have only so many waiting

    async def _answer(self, message: ClientMessage) -> Reply:
        try:
            return await self._reply(message)
        except StreamwardError as error:
            return _failed(message, error)
        except Exception as error:
            logger.error("stream message failed", extra={"request_id": self._request_id, **defect(error)})
            return _failed(message, StreamwardError("an unexpected error; see the service's log"))

    async def _reply(self, message: ClientMessage) -> Reply:
        match message:
            case OpenMessage():
                return await self._open(message)
            case AppendMessage():
                session = self._registry.get(message.stream, tenant=self._caller.tenant)
                return Events.of(session, await session.append(message.piece, seq=message.seq))
            case CloseMessage():
                session = self._registry.get(message.stream, tenant=self._caller.tenant)
                closed = Closed.of(session, await session.finish())
                self._sessions.pop(session.id, None)
                return closed
            case ResumeMessage():
                session = self._registry.get(message.stream, tenant=self._caller.tenant)
                answer = resumed(session, message.after)
                self._attach(session)
                return answer

    async def _open(self, message: OpenMessage) -> Opened:
        self._forget_ended()
        most = self._state.config.streams.max_per_connection
        if len(self._sessions) + self._num_opening >= most:
            raise OverloadedError(f"{most} streams are open on this connection; close one, or open another connection")
        self._state.rates.take(self._caller.key_id, self._caller.limits)
        self._num_opening += 1
        try:
            session = await open_session(self._websocket, self._caller, message)
        finally:
            self._num_opening -= 1
        self._attach(session)
        return Opened.of(session, ref=message.ref)

    def _attach(self, session: StreamSession) -> None:
        session.attach(self)
        self._sessions[session.id] = session

    def _forget_ended(self) -> None:
        for session in [each for each in self._sessions.values() if each.is_over]:
            del self._sessions[session.id]

    async def _send(self, reply: Reply) -> None:
        """Send an answer; a client that does not take it is dropped, and may resume."""
        text = reply.model_dump_json()
        try:
            async with self._sending, asyncio.timeout(_SEND_TIMEOUT_S):
                await self._websocket.send_text(text)
        except (TimeoutError, RuntimeError, WebSocketDisconnect, OSError):
            logger.info("client vanished", extra={"request_id": self._request_id})
            await self._close(OverloadedError())

    async def _end(self, error: StreamwardError) -> None:
        await self._send(Failed(code=error.code, message=str(error)))
        await self._close(error)

    async def _close(self, error: StreamwardError) -> None:
        # The connection is closed already, or the client is gone.
        with suppress(RuntimeError, OSError, WebSocketDisconnect):
            await self._websocket.close(answer_for(error).close_code)

    @property
    def _request_id(self) -> str:
        return str(self._websocket.state.request_id)


def _failed(message: ClientMessage, error: StreamwardError) -> Failed:
    if isinstance(message, OpenMessage):
        return Failed(code=error.code, message=str(error), ref=message.ref)
    return Failed(code=error.code, message=str(error), stream=message.stream)
