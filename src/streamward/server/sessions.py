"""Streams that callers feed themselves: they outlive single requests and connections, but not for long."""

import asyncio
import codecs
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress

from streamward.decisions import combine, decide_error
from streamward.errors import CallCancelledError, InputError, OverloadedError, StreamClosedError, StreamwardError
from streamward.moderation.async_stream import AsyncGuardStream
from streamward.moderation.detection import response_detectors
from streamward.schema import Decision, Event, Result, Side, SideResult
from streamward.server.judging import failed
from streamward.server.live import LiveKind, LiveText, ShownTokens, decision_event
from streamward.server.pieces import Appended, Ending, ShownNews, ShownText, StreamPiece, with_grace
from streamward.server.records import ModerationContext, Texts
from streamward.server.state import ServiceState

logger = logging.getLogger(__name__)

_PATIENCE_S = (0.02, 0.1, 0.4, 1.0)  # waits for room, in seconds, before a stream is given up


class StreamSession:
    """One stream of one tenant. Pieces are judged one after the other, in the order they came."""

    def __init__(
        self,
        job: ModerationContext,
        stream: AsyncGuardStream,
        held: AsyncExitStack,
        *,
        state: ServiceState,
        prompt_text: str | None,
        clock: Callable[[], float],
    ) -> None:
        """Take over an open stream.

        Args:
            job: Whose it is; its `stream_id` names it.
            stream: The stream.
            held: Closes the stream, and gives back what else it holds.
            state: Where decisions are logged.
            prompt_text: The user's turn, for the log.
            clock: Seconds.
        """
        self.id = str(job.stream_id)
        self.job = job
        self.used_at = clock()
        self.detached_at: float | None = None
        """Time at which its connection broke, by `clock`; None while it has one, or if it never had any."""
        self.owner: object | None = None  # the connection that the stream belongs to
        self.next_seq = 0
        self._stream = stream
        self._held = held
        self._state = state
        self._prompt_text = prompt_text
        self._clock = clock
        self._lock = asyncio.Lock()
        self._kept: deque[Appended] = deque()
        self._num_kept = 0
        self._texts: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # for the bytes of token ids
        self._live = LiveText(response_detectors(job.policy.policy))
        self._shown = ShownText(stream)
        self._result: Result | None = None
        self._recording: asyncio.Task[None] | None = None  # the task that logs the result; kept once it is done
        self._has_unjudged = False  # True if a piece was taken in and its judgement was cancelled
        self._is_over = False

    @property
    def prompt(self) -> SideResult | None:
        """Judgement of the user's turn."""
        return self._stream.prompt

    @property
    def decision(self) -> Decision:
        """Decision on everything seen so far."""
        return self._stream.decision

    @property
    def is_over(self) -> bool:
        """True if the stream was closed, for any reason."""
        return self._is_over

    @property
    def is_busy(self) -> bool:
        """True if a piece is being judged."""
        return self._lock.locked()

    def take_news(self) -> ShownNews:
        """Return what was found, and what may be shown, since the last piece."""
        return self._shown.news()

    def detach(self, owner: object) -> None:
        """Note that a connection broke, unless another has taken the stream over."""
        if self.owner is owner:
            self.owner, self.detached_at = None, self._clock()

    def attach(self, owner: object) -> None:
        """Let a connection take the stream over."""
        self.owner, self.detached_at = owner, None

    async def append(self, piece: StreamPiece, *, seq: int | None = None) -> Appended:
        """Judge the next piece. If the caller is cancelled the guard stops soon. A piece that was taken in by then has
        an answer without events, and is judged with the next one; else it is still the next to come.

        Args:
            piece: What comes next.
            seq: Number of the piece. One that was judged before gets its old answer again; with None it is the next.

        Raises:
            StreamClosedError: The stream is over, or an old answer is no longer kept.
            InputError: A number is left out, or the piece is not possible. Nothing was taken in.
        """
        async with self._lock:
            return await self._append(piece, seq)

    async def finish(self, ending: Ending = "closed") -> Result:
        """Judge what is left, log the decision and free what the stream holds.

        Raises:
            StreamClosedError: The stream is over.
            AuditError: The decision could not be logged; try again.
        """
        async with self._lock:
            return await self._finish(ending)

    def kept_after(self, seq: int) -> list[Appended]:
        """Return the answers to all pieces after one, for whoever resumes the stream.

        Raises:
            StreamClosedError: Some of them are no longer kept.
        """
        found = [answer for answer in self._kept if answer.seq > seq]
        if len(found) != max(0, self.next_seq - 1 - seq):
            raise StreamClosedError("answers that far back are no longer kept (streams.max_kept_events)")
        return found

    async def _append(self, piece: StreamPiece, seq: int | None) -> Appended:
        self._check_open()
        if self._result is not None:
            raise StreamClosedError("the stream is finished, but its decision is not logged yet; close it again")
        self.used_at = self._clock()
        if seq is not None and seq < self.next_seq:
            return self.kept_after(seq - 1)[0]
        if seq is not None and seq > self.next_seq:
            raise InputError(f"seq is {seq}; the next piece is {self.next_seq}")
        said = self._text_of(piece)
        try:
            events = await with_grace(self._judge(piece))
        except InputError:
            raise  # the piece was not taken in
        except asyncio.CancelledError:
            if self._stream.took_piece:
                self._has_unjudged = True
                self._take_in(said, [])
            raise
        except Exception as error:
            return await self._fail(error, said)
        self._has_unjudged = False
        return self._take_in(said, events)

    def _take_in(self, said: str, events: Sequence[Event]) -> Appended:
        self._texts.append(said)
        findings, masked = self._shown.news()
        answer = Appended(
            self.next_seq,
            tuple(events),
            self._stream.decision,
            self._stream.releasable_chars,
            findings=findings,
            masked=masked,
        )
        self._keep(answer)
        self._show(said, events)
        self.used_at = self._clock()
        return answer

    async def _judge(self, piece: StreamPiece) -> list[Event]:
        with self.job.guard_time.waiting():
            async with asyncio.timeout(self._state.config.limits.judge_timeout_s):
                return await self._judge_patiently(piece)

    async def _judge_patiently(self, piece: StreamPiece) -> list[Event]:
        try:
            if piece.kind == "reasoning":
                return await self._stream.feed_reasoning(piece.content)
            return await self._stream.feed(piece.content)
        except OverloadedError:
            pass  # the piece was taken in
        for wait_s in _PATIENCE_S:
            await asyncio.sleep(wait_s)
            with suppress(OverloadedError):
                return await (self._stream.feed_reasoning("") if piece.kind == "reasoning" else self._stream.feed(""))
        raise OverloadedError("there was no room to judge the piece")

    async def _fail(self, error: Exception, said: str) -> Appended:
        """End the stream with what the policy says about a guard that failed."""
        self._texts.append(said)
        self._result = self._failed(error)
        answer = Appended(self.next_seq, (), self._result.decision, 0, is_failed=True)
        self._keep(answer)
        await self._record_decision(self._result, "failed")
        return answer

    def _failed(self, error: Exception) -> Result:
        result = failed(self.job, error, sides=[Side.RESPONSE])
        return Result(combine(self._stream.decision, result.decision), self._stream.prompt)

    async def _finish(self, ending: Ending) -> Result:
        self._check_open()
        if self._result is None:
            if self._has_unjudged and ending != "closed":
                self._result = self._unjudged()
            else:
                self._result = await self._judge_end()
        self._publish(self._live.finish())
        await self._record_decision(self._result, ending)
        return self._result

    async def give_up(self, ending: Ending) -> None:
        """End the session without judging what is left; the decision is logged as of what was judged."""
        self._check_open()
        if self._result is None:
            self._result = self._unjudged()
        await self._record_decision(self._result, ending)

    async def _judge_end(self) -> Result:
        try:
            with self.job.guard_time.waiting():
                async with asyncio.timeout(self._state.config.limits.judge_timeout_s):
                    return await self._stream.finish()
        except Exception as error:  # the guard failed; the policy's on_error decides what follows
            return self._failed(error)

    def _unjudged(self) -> Result:
        """Return what follows from text that nobody waited for: not that it is safe."""
        found = self._stream.so_far()
        unread = decide_error(self.job.policy.policy, Side.RESPONSE, CallCancelledError("the client has left"))
        return Result(combine(found.decision, unread), found.prompt, found.response)

    async def _record_decision(self, result: Result, ending: Ending) -> None:
        """Log the decision once: whoever comes while that is being done waits for it, and it goes on without him."""
        if self._recording is None:
            self._recording = asyncio.create_task(self._log_and_release(result, ending))
            self._recording.add_done_callback(self._note_recorded)
        await asyncio.shield(self._recording)

    def _note_recorded(self, recording: "asyncio.Task[None]") -> None:
        if recording.cancelled() or recording.exception() is not None:
            self._recording = None  # the next call tries again

    async def _log_and_release(self, result: Result, ending: Ending) -> None:
        texts = Texts(self._prompt_text, "".join(self._texts))
        try:
            await self._state.record_decision(self.job, result, texts=texts, details={"ended": ending})
        except StreamwardError:
            if ending == "closed":
                raise  # the caller can try again
            await self._release(ending)
            raise
        await self._release(ending)

    async def _release(self, ending: Ending) -> None:
        self._is_over = True
        self._state.metrics.stream_ended(ending)
        await self._held.aclose()

    def _check_open(self) -> None:
        if self._is_over:
            raise StreamClosedError("the stream is closed")

    def _text_of(self, piece: StreamPiece) -> str:
        if isinstance(piece.content, str):
            return piece.content
        return self._decoder.decode(self._stream.bytes_of(piece.content))

    def _keep(self, answer: Appended) -> None:
        self.next_seq += 1
        self._kept.append(answer)
        self._num_kept += len(answer.events)
        while len(self._kept) > 1 and self._num_kept > self._state.config.streams.max_kept_events:
            self._num_kept -= len(self._kept.popleft().events)

    def _show(self, said: str, events: Sequence[Event]) -> None:
        self._live.add(said)
        self._publish(self._live.tokens(events))

    def _publish(self, shown: ShownTokens) -> None:
        if self._state.feed.is_watched and shown.tokens:
            self._state.feed.publish(
                decision_event(
                    LiveKind.TOKENS,
                    self.job,
                    self._stream.decision,
                    stream_id=self.id,
                    start=shown.start,
                    tokens=shown.tokens,
                )
            )
