"""`/v1/streams`: responses judged while they grow, over HTTP. Over a WebSocket: `streamward.server.stream_socket`."""

from contextlib import AsyncExitStack
from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from starlette.requests import HTTPConnection

from streamward.errors import GuardFailedError, InputError, OverloadedError, StreamwardError
from streamward.moderation.conversation import read_conversation
from streamward.schema import Side
from streamward.server.auth import Caller, MeteredCaller
from streamward.server.errors import ERRORS
from streamward.server.judging import failed
from streamward.server.records import Texts, new_id
from streamward.server.session_registry import StreamRegistry
from streamward.server.sessions import StreamSession
from streamward.server.state import service_state
from streamward.server.stream_wire import AppendPiece, Closed, Events, Opened, OpenStream, Resumed

router = APIRouter(tags=["streams"])

StreamId = Annotated[str, Path(max_length=80, description="From opening the stream.")]


def stream_registry(connection: HTTPConnection) -> StreamRegistry:
    """Return the open streams of the service that a request came to."""
    return cast(StreamRegistry, connection.app.state.streams)


async def open_session(connection: HTTPConnection, caller: Caller, wanted: OpenStream) -> StreamSession:
    """Open a stream for a caller.

    Raises:
        StreamwardError: It may not, or there is no room.
    """
    state = service_state(connection)
    kept = caller.choose_policy(state, wanted.policy)
    job = caller.context(connection, "streams", kept, stream_id=new_id("str"))
    prompt_text = _prompt_text(wanted, max_chars=state.config.limits.max_chars)
    held = AsyncExitStack()
    held.enter_context(state.rates.running(caller.key_id, caller.limits))
    try:
        return await stream_registry(connection).open(
            job,
            lambda: state.with_policy(kept).astream(prompt=wanted.prompt, messages=wanted.messages),
            held=held,
            prompt_text=prompt_text,
        )
    except (InputError, OverloadedError):
        raise
    except Exception as error:
        result = failed(job, error, sides=[Side.PROMPT])
        await state.record_decision(job, result, texts=Texts(prompt_text), details={"ended": "failed"})
        if isinstance(error, StreamwardError):
            raise
        raise GuardFailedError("the guard failed to open the stream") from error


def _prompt_text(wanted: OpenStream, *, max_chars: int) -> str | None:
    if wanted.prompt is None and wanted.messages is None:
        return None
    given = read_conversation(prompt=wanted.prompt, messages=wanted.messages, max_chars=max_chars, may_be_blank=True)
    return given.context[-1].content if given.has_prompt else None


@router.post("/v1/streams", status_code=201, responses=ERRORS)
async def open_stream(body: OpenStream, request: Request, caller: MeteredCaller) -> Opened:
    """Begin a stream; the prompt is judged."""
    return Opened.of(await open_session(request, caller, body))


@router.get("/v1/streams/{stream_id}", responses=ERRORS)
async def show_stream(
    stream_id: StreamId,
    request: Request,
    caller: MeteredCaller,
    after: Annotated[int, Query(ge=-1, le=2**53, description="Number of the last piece whose answer arrived.")] = -1,
) -> Resumed:
    """Tell how far a stream is, and answer again the pieces after one."""
    session = stream_registry(request).get(stream_id, tenant=caller.tenant)
    return resumed(session, after)


@router.post("/v1/streams/{stream_id}/append", responses=ERRORS)
async def append(stream_id: StreamId, body: AppendPiece, request: Request, caller: MeteredCaller) -> Events:
    """Judge the next piece."""
    session = stream_registry(request).get(stream_id, tenant=caller.tenant)
    return Events.of(session, await session.append(body.piece, seq=body.seq))


@router.post("/v1/streams/{stream_id}/close", responses=ERRORS)
async def close(stream_id: StreamId, request: Request, caller: MeteredCaller) -> Closed:
    """Judge what is left of a stream, and end it."""
    session = stream_registry(request).get(stream_id, tenant=caller.tenant)
    return Closed.of(session, await session.finish())


def resumed(session: StreamSession, after: int) -> Resumed:
    """Describe a session for whoever takes it over."""
    missed = tuple(Events.of(session, answer) for answer in session.kept_after(after))
    return Resumed(stream=session.id, next_seq=session.next_seq, decision=session.decision, missed=missed)
