"""One call: prompt and upstream at once, then the answer as the guard lets it through."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

from streamward.decisions import ALLOWED, combine
from streamward.errors import InputError, StreamwardError, UpstreamError
from streamward.gateway.annotations import Annotations
from streamward.gateway.call_record import CallRecord, EndReason, GatewayCall, GatewayResponse, Observer
from streamward.gateway.config import GatewayLimits
from streamward.gateway.guard import OpenGuard
from streamward.gateway.guard_streams import GuardStreamFactory
from streamward.gateway.keep_alive import kept_alive
from streamward.gateway.masking import CallMasking
from streamward.gateway.prompt_guard import PromptGuard
from streamward.gateway.release_buffer import Chunk, Cutoff, ReleaseBuffer
from streamward.gateway.report import Describe, adapt, blocked_error, read_asked
from streamward.gateway.reported_errors import ErrorReport, ReportedError
from streamward.gateway.request_formats import read_request
from streamward.gateway.sse import KEEP_ALIVE
from streamward.gateway.state_seal import Aside, StateSeal, put_back
from streamward.gateway.stream_decoder import StreamDecoder, read_document, read_error
from streamward.gateway.strict_json import JsonObject, dump, parse_object
from streamward.gateway.upstream import Upstream, UpstreamTimeoutError
from streamward.gateway.upstream_errors import answer_of_failure, answer_of_report, error_of_failure, error_of_report
from streamward.gateway.upstream_reader import UpstreamHead, UpstreamReader
from streamward.schema import Action

logger = logging.getLogger(__name__)
T = TypeVar("T")


class GatewaySession:
    """Answers one call. Use it in `async with`: leaving it ends the upstream's request and closes all guard streams."""

    def __init__(
        self,
        call: GatewayCall,
        upstream: Upstream,
        *,
        open_guard: OpenGuard,
        seal: StateSeal,
        limits: GatewayLimits,
        describe: Describe,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        """Understand the request; nothing is asked yet.

        Raises:
            InputError: The request is malformed, or has what the gateway refuses.
        """
        self._started = clock()
        self._clock = clock
        self._call = call
        self._upstream = upstream
        self._limits = limits
        self._observer = observer
        self._seal = seal
        config = upstream.config
        try:
            body = parse_object(call.body)
        except ValueError as error:
            raise InputError(f"the body cannot be read: {error}") from error
        asked = read_asked(body, has_annotations=call.has_annotations or config.annotations)
        policy = adapt(call.policy, asked, may_relax=config.prompt.may_relax)
        asides = self._open_state(body)
        masking = CallMasking(policy, body)
        self._is_refused = masking.is_blocked
        self._format = read_request(call, body, upstream, limits)
        put_back(asides)
        self._request = self._format.request
        openings = GuardStreamFactory(
            open_guard,
            self._format,
            policy=policy,
            release=config.release,
            limits=limits,
            on_judged=observer.judged,
        )
        self._judges = PromptGuard(openings, self._format, masking=masking)
        self._notes = Annotations(asked, self._judges, describe=describe, is_responses=call.format == "responses")
        self._intake: UpstreamReader | None = None
        self._events: AsyncGenerator[bytes, None] | None = None
        self._decision = ALLOWED
        self._stops: list[Cutoff] = []
        self._guard_s = 0.0
        self._prompt_s = 0.0
        self._first_byte_s: float | None = None
        self._is_told = False
        self._is_fully_read = False

    def _open_state(self, body: JsonObject) -> list[Aside]:
        config = self._upstream.config
        asides, num_dropped = self._seal.open(
            body, unsealed=config.prompt.unsealed_state, unknown=config.release.opaque_strings
        )
        if num_dropped:
            facts = {"request_id": self._call.request_id, "upstream": self._call.upstream, "num_values": num_dropped}
            logger.warning("state that was not sealed here was dropped from a request", extra=facts)
        return asides

    async def aclose(self) -> None:
        """End everything. A call whose end was not told is one whose client has gone."""
        try:
            if self._events is not None:
                await self._events.aclose()
            if self._intake is not None:
                if self._is_fully_read:
                    await self._intake.drain()
                await self._intake.aclose()
        finally:
            await self._judges.aclose()
            await self._report(EndReason.CLIENT_GONE)

    async def answer(self) -> GatewayResponse:
        """Judge the prompt and begin the answer.

        Raises:
            StreamwardError: The prompt could not be judged, and the policy blocks what it cannot judge.
        """
        async with self._recording_defects():
            return await self._answer()

    @asynccontextmanager
    async def _recording_defects(self) -> AsyncIterator[None]:
        """Tell the observer of what the block raises: the client has not gone."""
        try:
            yield
        except Exception:
            status = 500 if self._events is None else 200
            await self._report(EndReason.INTERNAL, status=status, error=StreamwardError.code)
            raise

    async def _answer(self) -> GatewayResponse:
        if self._upstream.config.prompt.call_upstream == "at_once" and not self._is_refused:
            self._ask()
        self._decision = await self._judges.judge_prompts()
        self._prompt_s = self._clock() - self._started
        if self._decision.action.severity >= Action.REPLACE.severity:
            if self._intake is not None:
                await self._intake.aclose()
            return await self._refuse()
        if self._intake is None:
            self._ask()
        try:
            head = await self._within(self._asked.head())
            if not 200 <= head.status < 300:
                return await self._fail_with(read_error(await self._read_all(), head.media_type), head)
            if self._request.is_stream and head.may_be_stream:
                self._events = kept_alive(self._stream(), every_s=self._limits.keep_alive_s)
                return GatewayResponse(200, events=self._events)
            if head.is_stream:
                raise await self._unwanted()
            return await self._document()
        except ReportedError as error:
            return await self._fail_with(error.report, head)
        except UpstreamError as error:
            return await self._fail(answer_of_failure(error))

    def _ask(self) -> None:
        path = f"/{self._call.format}"
        self._intake = UpstreamReader(
            self._upstream, path, self._request.body, max_ahead_bytes=self._limits.max_ahead_bytes
        )

    @property
    def _asked(self) -> UpstreamReader:
        assert self._intake is not None, "the upstream was asked"
        return self._intake

    async def _refuse(self) -> GatewayResponse:
        if self._judges.error is not None:
            await self._report(EndReason.GUARD_FAILED, status=503, error=self._judges.error.code)
            raise self._judges.error
        prompt = self._upstream.config.prompt
        message = self._decision.message or (prompt.refusal if prompt.on_block == "refusal" else None)
        if message is None:
            await self._report(EndReason.PROMPT_BLOCKED, status=400)
            return GatewayResponse(400, dump(blocked_error(self._judges.prompts[-1][0], self._decision)))
        document, events = self._format.refusal(message, self._notes.of_whole())
        await self._report(EndReason.PROMPT_BLOCKED)
        if self._request.is_stream:
            return GatewayResponse(200, events=_each([b"".join(events)]))
        return GatewayResponse(200, dump(document))

    async def _fail(self, answer: GatewayResponse) -> GatewayResponse:
        await self._report(EndReason.UPSTREAM_FAILED, status=answer.status, error=UpstreamError.code)
        return answer

    async def _fail_with(self, report: ErrorReport, head: UpstreamHead) -> GatewayResponse:
        """Answer with what the upstream says is wrong, as far as the guard lets it through."""
        report = await self._judges.let_through(self._upstream.redacted(report))
        return await self._fail(answer_of_report(report, status=head.status, headers=head.headers))

    async def _read_all(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while (batch := await self._within(self._asked.next())) is not None:
            parts += batch
            size += sum(map(len, batch))
            if size > self._limits.max_answer_bytes:
                raise UpstreamError(f"the upstream's answer is longer than {self._limits.max_answer_bytes} bytes")
        return b"".join(parts)

    async def _document(self) -> GatewayResponse:
        data = await self._read_all()
        body = read_document(data)
        if self._request.is_stream:
            raise UpstreamError("the upstream did not stream what was to be streamed")
        ledger = ReleaseBuffer(self._judges.fields, is_document=True, max_held_bytes=self._limits.max_answer_bytes)
        self._seal.seal(body)
        self._judges.deadline.begin()
        await ledger.take(self._format.read_document(body, len(data)))
        await self._judge(ledger, is_end=True)
        released = ledger.release(is_last=True)
        self._stops = ledger.stops()
        released += ledger.release(is_last=True)
        groups = {stop.group for stop in self._stops} | {each.group for each in released if each.group is not None}
        extras = {group: self._notes.of_choice(self._judges.fields.decision_of(group), group) for group in groups}
        document = {**self._format.join(released, self._stops, extras), **self._notes.of_whole()}
        await self._report(self._end_reason())
        return GatewayResponse(200, dump(document))

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        is_audit = self._upstream.config.release.mode == "audit"
        ledger = ReleaseBuffer(self._judges.fields, is_audit=is_audit, max_held_bytes=self._limits.max_held_bytes)
        async with self._recording_defects():
            reading = self._reading()
            begin = self._notes.of_prompts()
            if begin:
                yield self._format.note(None, begin)
            ready_at = asyncio.get_running_loop().time()  # what came before could not be judged, nor leave
            while not reading.is_over:
                batch = await self._next(reading)
                self._judges.deadline.begin(max(self._asked.came_at, ready_at))
                await ledger.take(reading.take(batch))
                ahead = [self._format.encode(chunk, {}) for chunk in ledger.release()] if is_audit else []
                if ahead:
                    self._note_first_byte()
                    with self._judges.deadline.paused():
                        yield b"".join(ahead)
                await self._judge(ledger)
                if self._is_over(ledger):
                    break
                out = [] if reading.is_over else self._release(ledger, is_audit=is_audit)
                if out or reading.has_comment:
                    with self._judges.deadline.paused():
                        yield b"".join([KEEP_ALIVE, *out] if reading.has_comment else out)
            self._is_fully_read = reading.is_done
            await self._judge(ledger, is_end=True)
            has_error = self._has_reported_error(ledger, reading)  # then that is how the choices end
            rest = self._release(ledger, is_audit=is_audit, is_last=not has_error)
            is_recorded, end = await self._last(ledger, reading)
            yield b"".join([*rest, *end] if is_recorded else end)

    def _reading(self) -> StreamDecoder:
        limits = self._limits
        return StreamDecoder(
            self._format,
            seal=self._seal,
            max_event_bytes=limits.max_event_bytes,
            max_answer_bytes=limits.max_answer_bytes,
        )

    async def _unwanted(self) -> UpstreamError:
        """Return what is wrong with a stream that was not asked for: the error that it begins with, if it does."""
        reading = self._reading()
        while not reading.is_over and not reading.take(await self._next(reading)):
            pass
        if isinstance(reading.error, ReportedError):
            return reading.error
        return UpstreamError("the upstream streamed what was not to be streamed")

    async def _next(self, reading: StreamDecoder) -> list[bytes] | None:
        try:
            return await self._within(self._asked.next())
        except UpstreamError as error:
            reading.fail(error)
            return None

    async def _last(self, ledger: ReleaseBuffer, reading: StreamDecoder) -> tuple[bool, list[bytes]]:
        """Tell how it ended before the client knows it; return whether it ended well, and the events for it."""
        is_complete = self._is_over(ledger) or ledger.is_complete(self._request.num_groups)
        error: StreamwardError | None = None if is_complete else reading.error
        if self._has_reported_error(ledger, reading):
            error = reading.error
        elif not is_complete and error is None and not (reading.is_done and reading.has_content):
            error = UpstreamError("the upstream ended its answer early")
        told = await self._told(error) if error is not None else None
        ending = self._end_reason()
        if error is not None:
            ending = EndReason.UPSTREAM_FAILED
        try:
            await self._report(ending, error=None if error is None else error.code)
        except StreamwardError as failure:  # what cannot be recorded does not end
            return False, self._format.error(error_of_failure(failure))
        if told is not None:
            return True, self._format.error(told)
        end = self._notes.of_end()
        return True, [*([self._format.note(None, end)] if end else []), *self._format.done()]

    async def _told(self, error: StreamwardError) -> JsonObject:
        """Return what the client is told of an error; what the upstream says of it, as far as the guard lets it."""
        if isinstance(error, ReportedError):
            return error_of_report(await self._judges.let_through(self._upstream.redacted(error.report)))
        return error_of_failure(error)

    def _has_reported_error(self, ledger: ReleaseBuffer, reading: StreamDecoder) -> bool:
        return isinstance(reading.error, ReportedError) and not self._is_over(ledger)

    def _is_over(self, ledger: ReleaseBuffer) -> bool:
        """Whether nothing more is to come, whatever the upstream still sends."""
        return ledger.is_cut(self._request.num_groups) or (
            self._format.ends_with_choice and ledger.is_complete(self._request.num_groups)
        )

    def _release(self, ledger: ReleaseBuffer, *, is_audit: bool, is_last: bool = False) -> list[bytes]:
        out = [self._encode(chunk, ledger) for chunk in ledger.release(is_last=is_last)]
        for stop in ledger.stops():
            self._stops.append(stop)
            out += self._format.stop(stop, self._notes.of_choice(stop.decision, stop.group))
        out += [self._encode(chunk, ledger) for chunk in ledger.release(is_last=is_last)]
        if is_audit:
            out += [self._format.note(group, note) for group, note in self._notes.offsets()]
        if out:
            self._note_first_byte()
        return out

    def _end_reason(self) -> EndReason:
        """Say how an answer ended that the upstream gave whole: a guard that failed is not harm that was found."""
        if not self._stops:
            return EndReason.COMPLETE
        has_failed = all(stop.decision.error is not None for stop in self._stops)
        return EndReason.GUARD_FAILED if has_failed else EndReason.RESPONSE_BLOCKED

    def _note_first_byte(self) -> None:
        if self._first_byte_s is None:
            self._first_byte_s = self._clock() - self._started

    def _encode(self, chunk: Chunk, ledger: ReleaseBuffer) -> bytes:
        if chunk.group is None or not ledger.is_end(chunk):
            return self._format.encode(chunk, {})
        decision = self._judges.fields.decision_of(chunk.group)
        return self._format.encode(chunk, self._notes.of_choice(decision, chunk.group))

    async def _judge(self, ledger: ReleaseBuffer, *, is_end: bool = False) -> None:
        started = self._clock()
        await ledger.judge(is_end=is_end)
        self._guard_s += self._clock() - started

    async def _within(self, work: Awaitable[T]) -> T:
        """Wait for the upstream, but not beyond the call's time."""
        left_s = self._started + self._limits.max_answer_s - self._clock()
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                return await work
        except TimeoutError as error:
            raise UpstreamTimeoutError(
                f"the upstream did not end its answer within {self._limits.max_answer_s} s (max_answer_s)"
            ) from error

    async def _report(self, ending: EndReason, *, status: int = 200, error: str | None = None) -> None:
        """Tell the observer, once."""
        if self._is_told:
            return
        self._is_told = True
        decision = self._decision
        for group in self._judges.fields.readers:
            decision = combine(decision, self._judges.fields.decision_of(group))
        outcome = CallRecord(
            call=self._call,
            model=self._request.model,
            is_stream=self._request.is_stream,
            status=status,
            ending=ending,
            decision=decision,
            messages=self._request.prompts[0].messages,
            prompt=self._judges.prompts[0][0] if self._judges.prompts else None,
            parts=self._judges.texts(),
            prompt_s=self._prompt_s,
            first_byte_s=self._first_byte_s,
            duration_s=self._clock() - self._started,
            guard_s=self._guard_s,
            num_tokens=self._judges.num_tokens,
            error=error,
        )
        await asyncio.shield(self._observer.finished(outcome))


async def _each(events: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    for event in events:
        yield event
