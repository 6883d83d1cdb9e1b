"""One call: prompt and upstream at once, then the answer as the guard lets it through."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from streamward.errors import InputError, StreamwardError, UpstreamError
from streamward.gateway.annotations import Annotations
from streamward.gateway.call_record import EndReason, GatewayCall, GatewayResponse, Observer
from streamward.gateway.call_report import CallReport
from streamward.gateway.config import GatewayLimits, ReleaseRules
from streamward.gateway.guard import OpenGuard
from streamward.gateway.guard_streams import GuardStreamFactory
from streamward.gateway.interventions import open_interventions
from streamward.gateway.keep_alive import kept_alive
from streamward.gateway.masking import CallMasking
from streamward.gateway.prompt_guard import PromptGuard
from streamward.gateway.release_buffer import Chunk, ReleaseBuffer
from streamward.gateway.report import Describe, adapt, blocked_error, read_asked
from streamward.gateway.reported_errors import ErrorReport, ReportedError
from streamward.gateway.request_formats import read_request
from streamward.gateway.sse import KEEP_ALIVE
from streamward.gateway.state_seal import Aside, StateSeal, put_back
from streamward.gateway.stream_decoder import StreamDecoder, read_document, read_error
from streamward.gateway.strict_json import JsonObject, dump, parse_object
from streamward.gateway.upstream import Upstream
from streamward.gateway.upstream_answer import UpstreamAnswer
from streamward.gateway.upstream_errors import answer_of_failure, answer_of_report, error_of_failure, error_of_report
from streamward.gateway.upstream_reader import UpstreamHead
from streamward.schema import Action, Decision

logger = logging.getLogger(__name__)
T = TypeVar("T")


class GatewaySession:
    """Answers one call. Use it in `async with`: leaving it ends the upstream's request and closes all guard streams."""

    def __init__(
        self,
        call: GatewayCall,
        upstream: Upstream,
        *,
        upstreams: Mapping[str, Upstream],
        open_guard: OpenGuard,
        seal: StateSeal,
        limits: GatewayLimits,
        describe: Describe,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        """Understand the request; nothing is asked yet. `upstreams` are all that are configured.

        Raises:
            InputError: The request is malformed, or has what the gateway refuses.
        """
        self._clock = clock
        started = clock()
        self._call = call
        self._upstream = upstream
        self._limits = limits
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
        self._rules = ReleaseRules.of(policy, config.release)
        openings = GuardStreamFactory(
            open_guard,
            self._format,
            policy=policy,
            release=config.release,
            rules=self._rules,
            limits=limits,
            on_judged=observer.judged,
            on_truncated=observer.truncated,
        )
        self._judges = PromptGuard(openings, self._format, masking=masking)
        self._notes = Annotations(asked, self._judges, describe=describe, is_responses=call.format == "responses")
        self._report = CallReport(call, self._request, self._judges, observer=observer, clock=clock, started=started)
        self._answering = UpstreamAnswer(
            upstream,
            self._format,
            f"/{call.format}",
            seal=seal,
            limits=limits,
            clock=clock,
            ends_at=started + limits.max_answer_s,
        )
        self._changes = self._report.interventions = open_interventions(
            call.format,
            self._format,
            self._judges,
            rules=self._rules,
            upstream=upstream,
            upstreams=upstreams,
            limits=limits,
            within=self._answering.within,
            masking=masking,
            clock=clock,
        )
        openings.holds_whole = self._changes is not None and self._changes.holds_whole
        self._events: AsyncGenerator[bytes, None] | None = None
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
            if self._changes is not None:
                await self._changes.aclose()
            await self._answering.aclose(drains=self._is_fully_read)
        finally:
            await self._judges.aclose()
            await self._report.tell(EndReason.CLIENT_GONE)

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
            await self._report.tell(EndReason.INTERNAL, status=status, error=StreamwardError.code)
            raise

    async def _answer(self) -> GatewayResponse:
        if self._upstream.config.prompt.call_upstream == "at_once" and not self._is_refused:
            self._answering.begin()
        self._report.decision = await self._judges.judge_prompts()
        self._report.note_prompt()
        if self._report.decision.action.severity >= Action.REPLACE.severity:
            await self._answering.aclose()
            return await self._refuse()
        if not self._answering.has_begun:
            self._answering.begin()
        try:
            head = await self._answering.head()
            if not 200 <= head.status < 300:
                return await self._fail_with(read_error(await self._answering.read_all(), head.media_type), head)
            if self._request.is_stream and head.may_be_stream:
                self._events = kept_alive(self._stream(), every_s=self._limits.keep_alive_s)
                return GatewayResponse(200, events=self._events)
            if head.is_stream:
                raise await self._answering.unwanted()
            return await self._document()
        except ReportedError as error:
            return await self._fail_with(error.report, head)
        except UpstreamError as error:
            return await self._fail(answer_of_failure(error))

    async def _refuse(self) -> GatewayResponse:
        if self._judges.error is not None:
            await self._report.tell(EndReason.GUARD_FAILED, status=503, error=self._judges.error.code)
            raise self._judges.error
        prompt = self._upstream.config.prompt
        message = self._report.decision.message or (prompt.refusal if prompt.on_block == "refusal" else None)
        if message is None:
            await self._report.tell(EndReason.PROMPT_BLOCKED, status=400)
            return GatewayResponse(400, dump(blocked_error(self._judges.prompts[-1][0], self._report.decision)))
        document, events = self._format.refusal(message, self._notes.of_whole())
        await self._report.tell(EndReason.PROMPT_BLOCKED)
        if self._request.is_stream:
            return GatewayResponse(200, events=_each([b"".join(events)]))
        return GatewayResponse(200, dump(document))

    async def _fail(self, answer: GatewayResponse) -> GatewayResponse:
        await self._report.tell(EndReason.UPSTREAM_FAILED, status=answer.status, error=UpstreamError.code)
        return answer

    async def _fail_with(self, report: ErrorReport, head: UpstreamHead) -> GatewayResponse:
        """Answer with what the upstream says is wrong, as far as the guard lets it through."""
        report = await self._judges.let_through(self._upstream.redacted(report))
        return await self._fail(answer_of_report(report, status=head.status, headers=head.headers))

    async def _document(self) -> GatewayResponse:
        data = await self._answering.read_all()
        body = read_document(data)
        if self._request.is_stream:
            raise UpstreamError("the upstream did not stream what was to be streamed")
        ledger = ReleaseBuffer(
            self._judges.fields,
            is_document=True,
            max_held_bytes=self._limits.max_answer_bytes,
            may_change=self._changes is not None,
        )
        self._seal.seal(body)
        self._judges.deadline.begin()
        chunks = self._format.read_document(body, len(data))
        await ledger.take(chunks)
        await self._judge(ledger, is_end=True)
        if self._changes is not None:
            self._changes.note_usage(chunks)
            async for _ in self._changes.rest():
                pass
        released = ledger.release(is_last=True)
        self._report.stops = ledger.stops()
        released += ledger.release(is_last=True)
        if self._changes is not None:
            released = self._changes.documents(released)
        groups = {stop.group for stop in self._report.stops} | {
            each.group for each in released if each.group is not None
        }
        extras = {group: self._notes.of_choice(self._judges.fields.decision_of(group), group) for group in groups}
        document = {
            **self._format.join(released, self._report.stops, extras),
            **self._notes.of_whole(),
            **self._told_changes(),
        }
        await self._report.tell(self._report.end_reason())
        return GatewayResponse(200, dump(document))

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        is_audit = self._rules.mode == "audit"
        ledger = ReleaseBuffer(
            self._judges.fields,
            is_audit=is_audit,
            max_held_bytes=self._limits.max_held_bytes,
            may_change=self._changes is not None,
        )
        async with self._recording_defects():
            reading = self._answering.decoder()
            begin = self._notes.of_prompts()
            if begin:
                yield self._format.note(None, begin)
            ready_at = asyncio.get_running_loop().time()  # the text before could not be judged, so it does not leave
            due: list[bytes] = []
            while not reading.is_over:
                waiting = asyncio.ensure_future(self._answering.next(reading))
                async with aclosing(self._meanwhile(waiting)) as meanwhile:
                    async for events in meanwhile:
                        yield events
                batch = waiting.result()
                self._judges.deadline.begin(max(self._answering.came_at, ready_at))
                chunks = reading.take(batch)
                if self._changes is not None:
                    self._changes.note_usage(chunks)
                await ledger.take(chunks)
                ahead = [self._format.encode(chunk, {}) for chunk in ledger.release()] if is_audit else []
                if ahead:
                    self._report.note_first_byte()
                    with self._judges.deadline.paused():
                        yield b"".join(ahead)
                due = await self._judge(ledger)
                if self._is_over(ledger):
                    break
                out, due = [*due, *([] if reading.is_over else self._release(ledger, is_audit=is_audit))], []
                if out or reading.has_comment:
                    with self._judges.deadline.paused():
                        yield b"".join([KEEP_ALIVE, *out] if reading.has_comment else out)
            self._is_fully_read = reading.is_done
            if self._changes is not None and self._changes.is_active:
                await self._answering.aclose()  # the remaining choices need nothing more from the upstream
            due += await self._judge(ledger, is_end=True)
            if due:
                yield b"".join(due)
            if self._changes is not None:
                async with aclosing(self._changes.rest()) as changing:
                    async for each in changing:
                        self._report.note_first_byte()
                        yield b"".join(each)
            has_error = self._has_reported_error(ledger, reading)  # the choices end with that error
            rest = self._release(ledger, is_audit=is_audit, is_last=not has_error)
            is_recorded, end = await self._last(ledger, reading)
            yield b"".join([*rest, *end] if is_recorded else end)

    async def _meanwhile(self, waiting: asyncio.Future[list[bytes] | None]) -> AsyncGenerator[bytes, None]:
        """Yield what changed choices say while the upstream is waited for. Closing it ends the wait."""
        try:
            if self._changes is None:
                await asyncio.wait([waiting])
                return
            async with aclosing(self._changes.while_waiting(waiting)) as changing:
                async for events in changing:
                    self._report.note_first_byte()
                    yield b"".join(events)
        finally:
            waiting.cancel()

    def _told_changes(self) -> JsonObject:
        """Return what is told of changed choices, where the request asks for it."""
        return self._changes.told() if self._changes is not None and self._call.reports_interventions else {}

    async def _last(self, ledger: ReleaseBuffer, reading: StreamDecoder) -> tuple[bool, list[bytes]]:
        """Tell how it ended before the client knows it; return whether it ended well, and the events for it."""
        is_complete = self._is_over(ledger) or ledger.is_complete(self._request.num_groups)
        error: StreamwardError | None = None if is_complete else reading.error
        if self._has_reported_error(ledger, reading):
            error = reading.error
        elif not is_complete and error is None and not (reading.is_done and reading.has_content):
            error = UpstreamError("the upstream ended its answer early")
        told = await self._told(error) if error is not None else None
        ending = self._report.end_reason()
        if error is not None:
            ending = EndReason.UPSTREAM_FAILED
        try:
            await self._report.tell(ending, error=None if error is None else error.code)
        except StreamwardError as failure:  # an answer that cannot be recorded does not end well
            return False, self._format.error(error_of_failure(failure))
        if told is not None:
            return True, self._format.error(told)
        changed: list[bytes] = []
        if self._changes is not None:
            changed = self._changes.ends(lambda group: self._extra(self._judges.fields.decision_of(group), group))
        end = {**self._notes.of_end(), **({} if self._format.ends_with_choice else self._told_changes())}
        return True, [*changed, *([self._format.note(None, end)] if end else []), *self._format.done()]

    async def _told(self, error: StreamwardError) -> JsonObject:
        """Return what the client is told of an error; what the upstream says of it, as far as the guard lets it."""
        if isinstance(error, ReportedError):
            return error_of_report(await self._judges.let_through(self._upstream.redacted(error.report)))
        return error_of_failure(error)

    def _has_reported_error(self, ledger: ReleaseBuffer, reading: StreamDecoder) -> bool:
        return isinstance(reading.error, ReportedError) and not self._is_over(ledger)

    def _is_over(self, ledger: ReleaseBuffer) -> bool:
        """Return whether nothing more is to come, whatever the upstream still sends."""
        return ledger.is_cut(self._request.num_groups) or (
            self._format.ends_with_choice and ledger.is_complete(self._request.num_groups)
        )

    def _release(self, ledger: ReleaseBuffer, *, is_audit: bool, is_last: bool = False) -> list[bytes]:
        out = self._let_go(ledger.release(is_last=is_last), ledger)
        for stop in ledger.stops():
            self._report.stops.append(stop)
            self._report.note_first_byte()
            out += self._format.stop(stop, self._notes.of_choice(stop.decision, stop.group))
        out += self._let_go(ledger.release(is_last=is_last), ledger)
        if is_audit:
            out += [self._format.note(group, note) for group, note in self._notes.offsets()]
        return out

    def _let_go(self, chunks: Sequence[Chunk], ledger: ReleaseBuffer) -> list[bytes]:
        if any(chunk.slots for chunk in chunks):
            self._report.note_first_byte()
        changes = self._changes
        return [self._encode(each, ledger) for each in chunks if changes is None or not changes.replaces(each)]

    def _encode(self, chunk: Chunk, ledger: ReleaseBuffer) -> bytes:
        if chunk.group is None or not ledger.is_end(chunk):
            return self._format.encode(chunk, {})
        decision = self._judges.fields.decision_of(chunk.group)
        return self._format.encode(chunk, self._extra(decision, chunk.group))

    def _extra(self, decision: Decision, group: int) -> JsonObject:
        """Return what is added to the end of a choice."""
        told = self._told_changes() if self._format.ends_with_choice else {}
        return {**self._notes.of_choice(decision, group), **told}

    async def _judge(self, ledger: ReleaseBuffer, *, is_end: bool = False) -> list[bytes]:
        """Judge what was taken in; return what leaves before flagged choices are changed."""
        started, due = self._clock(), list[bytes]()
        await ledger.judge(is_end=is_end)
        if self._changes is not None and ledger.flagged():
            if self._request.is_stream:
                due = self._let_go(ledger.release(), ledger)
            await self._changes.begin(ledger)
        self._report.guard_s += self._clock() - started
        return due


async def _each(events: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    for event in events:
        yield event
