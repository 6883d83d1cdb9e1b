"""All sessions of a service: opened while there is room, swept when nobody uses them, ended when the service stops."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from streamward.errors import OverloadedError, StreamClosedError, StreamwardError
from streamward.moderation.async_stream import AsyncGuardStream
from streamward.observability import defect
from streamward.server.live import LiveKind, decision_event
from streamward.server.pieces import Ending
from streamward.server.records import ModerationContext
from streamward.server.sessions import StreamSession
from streamward.server.state import ServiceState

logger = logging.getLogger(__name__)

_GRACE_S = 0.2  # time for a decision to be logged at the end


class StreamRegistry:
    """All sessions of a service. Used from the event loop only."""

    def __init__(self, state: ServiceState, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without sessions."""
        self._state = state
        self._config = state.config.streams
        self._clock = clock
        self._sessions: dict[str, StreamSession] = {}
        self._num_opening = 0

    @property
    def num_open(self) -> int:
        """Sessions that are not over."""
        return len(self._sessions)

    async def open(
        self,
        job: ModerationContext,
        open_stream: Callable[[], AsyncGuardStream],
        *,
        held: AsyncExitStack,
        prompt_text: str | None,
    ) -> StreamSession:
        """Open a session; the prompt is judged.

        Args:
            job: Whose it is; its `stream_id` names it.
            open_stream: Gives the stream; called once there is room.
            held: What the session holds besides, given back when it ends, or now if it cannot be opened.
            prompt_text: The user's turn, for the log.

        Raises:
            OverloadedError: There are too many, or the service is stopping.
            StreamwardError: The guard failed.
        """
        async with AsyncExitStack() as undo:
            undo.push_async_callback(held.aclose)
            self._state.admission.check_open()
            if len(self._sessions) + self._num_opening >= self._config.max_open:
                raise OverloadedError(f"{self._config.max_open} streams are open; try again later")
            self._num_opening += 1
            undo.callback(self._opened)
            with job.guard_time.waiting():
                async with asyncio.timeout(self._state.config.limits.judge_timeout_s):
                    stream = await held.enter_async_context(open_stream())
            session = StreamSession(job, stream, held, state=self._state, prompt_text=prompt_text, clock=self._clock)
            undo.pop_all()
            self._opened()
        self._sessions[session.id] = session
        held.callback(self._forget, session.id)
        self._state.metrics.streams_open.set(len(self._sessions))
        self._announce(session)
        return session

    def get(self, stream_id: str, *, tenant: str) -> StreamSession:
        """Return a session of a tenant.

        Raises:
            StreamClosedError: There is none, or it is another tenant's; the two look the same.
        """
        session = self._sessions.get(stream_id)
        if session is None or session.job.tenant != tenant:
            raise StreamClosedError("there is no open stream of this id")
        return session

    async def sweep(self) -> None:
        """End what nobody has used for too long, or whose connection broke too long ago."""
        now = self._clock()
        for session in list(self._sessions.values()):
            is_idle = now - session.used_at >= self._config.idle_s
            is_lost = session.detached_at is not None and now - session.detached_at >= self._config.resume_s
            if (is_idle or is_lost) and not session.is_busy:
                await self._end(session, "expired")

    async def close(self, *, timeout_s: float) -> None:
        """End all sessions, as when the service stops; what is not judged in time is not judged."""
        ending = [asyncio.create_task(self._end(session, "stopped")) for session in self._sessions.values()]
        if ending:
            await asyncio.wait(ending, timeout=timeout_s)
        for task in ending:
            task.cancel()
        left = [asyncio.create_task(self._give_up(session)) for session in self._sessions.values()]
        if left:
            await asyncio.wait(left, timeout=_GRACE_S)

    async def _give_up(self, session: StreamSession) -> None:
        with suppress(StreamwardError):  # the session ended meanwhile, or the log does not answer
            await session.give_up("stopped")

    async def _end(self, session: StreamSession, ending: Ending) -> None:
        try:
            await session.finish(ending)
        except Exception as error:  # the next session must be ended all the same
            logger.error("a stream could not be ended properly", extra={"stream_id": session.id, **defect(error)})

    def _opened(self) -> None:
        self._num_opening -= 1

    def _forget(self, stream_id: str) -> None:
        self._sessions.pop(stream_id, None)
        self._state.metrics.streams_open.set(len(self._sessions))

    def _announce(self, session: StreamSession) -> None:
        if self._state.feed.is_watched:
            self._state.feed.publish(
                decision_event(LiveKind.OPENED, session.job, session.decision, stream_id=session.id)
            )
