"""`/v1/embeddings`: each text is judged as a prompt is, and of the answer only numbers and names are left."""

import asyncio
import re
from collections.abc import Callable

from streamward.decisions import combine, decide_error
from streamward.errors import InputError, StreamwardError, UpstreamError
from streamward.gateway.call_record import CallRecord, EndReason, GatewayCall, GatewayResponse, Observer
from streamward.gateway.completions import is_token_ids
from streamward.gateway.config import GatewayLimits, UpstreamConfig
from streamward.gateway.field_guard import as_known
from streamward.gateway.guard import OpenGuard
from streamward.gateway.masking import CallMasking
from streamward.gateway.prompts import read_model
from streamward.gateway.report import blocked_error
from streamward.gateway.reported_errors import ErrorReport, ReportedError
from streamward.gateway.stream_decoder import read_document, read_error
from streamward.gateway.strict_json import JsonObject, dump, parse_object
from streamward.gateway.upstream import Upstream, UpstreamTimeoutError
from streamward.gateway.upstream_errors import answer_of_failure, answer_of_report
from streamward.gateway.upstream_reader import UpstreamHead, UpstreamReader
from streamward.moderation.message_parts import is_identifier
from streamward.schema import Action, Decision, Message, Role, Side, SideResult

MAX_TEXTS = 2048
"""Texts of one request, as OpenAI has it."""
_BASE64 = re.compile("[A-Za-z0-9+/]*={0,2}")


class EmbeddingsCall:
    """Answers one request for embeddings. The upstream is asked once all of its texts are allowed."""

    def __init__(
        self,
        call: GatewayCall,
        upstream: Upstream,
        *,
        open_guard: OpenGuard,
        limits: GatewayLimits,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        """Understand the request; nothing is asked yet.

        Raises:
            InputError: It is malformed, or has what the guard does not read.
        """
        self._started = clock()
        self._clock = clock
        self._call = call
        self._upstream = upstream
        self._open_guard = open_guard
        self._limits = limits
        self._observer = observer
        try:
            self._body = parse_object(call.body)
        except ValueError as error:
            raise InputError(f"the body cannot be read: {error}") from error
        masking = CallMasking(call.policy, self._body)
        self._model = read_model(self._body, upstream.config.models)
        self._texts = _read_texts(self._body, upstream.config)
        self._decision = masking.decision
        self._judgement: SideResult | None = None
        self._judged: tuple[Message, ...] = ()
        self._prompt_s = 0.0
        self._is_told = False

    async def answer(self) -> GatewayResponse:
        """Judge the texts and ask the upstream.

        Raises:
            StreamwardError: A text could not be judged, and the policy blocks what it cannot judge.
        """
        try:
            await self._judge_texts()
            if self._decision.action.severity >= Action.REPLACE.severity:
                await self._tell(EndReason.PROMPT_BLOCKED, status=400)
                return GatewayResponse(400, dump(blocked_error(self._judgement, self._decision)))
            return await self._ask()
        except Exception:
            await self._tell(EndReason.INTERNAL, status=500, error=StreamwardError.code)
            raise
        finally:
            await self._tell(EndReason.CLIENT_GONE)

    async def _judge_texts(self) -> None:
        for text in self._texts:
            messages = (Message(Role.USER, text),)
            error, judgement, decision = await self._judge(messages)
            worst = combine(self._decision, decision)
            if worst is not self._decision or not self._judged:
                self._decision, self._judgement, self._judged = worst, judgement, messages
            if self._decision.action.severity >= Action.REPLACE.severity:
                if error is not None:
                    await self._tell(EndReason.GUARD_FAILED, status=503, error=error.code)
                    raise error
                break
        self._prompt_s = self._clock() - self._started

    async def _judge(self, messages: tuple[Message, ...]) -> tuple[StreamwardError | None, SideResult | None, Decision]:
        policy = self._call.policy
        try:
            async with asyncio.timeout(self._limits.guard_timeout_s), self._open_guard(messages, policy) as stream:
                return None, stream.prompt, stream.decision
        except Exception as error:  # after any error: a text that was not judged must not pass
            known = as_known(error)
            return known, None, decide_error(policy, Side.PROMPT, known)

    async def _ask(self) -> GatewayResponse:
        intake = UpstreamReader(self._upstream, "/embeddings", self._body, max_ahead_bytes=self._limits.max_ahead_bytes)
        head = UpstreamHead(200, "", {})
        try:
            async with asyncio.timeout(self._limits.max_answer_s):
                head = await intake.head()
                data = await self._read_all(intake)
            if not 200 <= head.status < 300:
                raise ReportedError(read_error(data, head.media_type))
            document = _read_embeddings(read_document(data))
        except ReportedError as error:
            return await self._fail(
                answer_of_report(await self._let_through(error.report), status=head.status, headers=head.headers)
            )
        except UpstreamError as error:
            return await self._fail(answer_of_failure(error))
        except TimeoutError:
            late = UpstreamTimeoutError(
                f"the upstream did not end its answer within {self._limits.max_answer_s} s (max_answer_s)"
            )
            return await self._fail(answer_of_failure(late))
        finally:
            await intake.aclose()
        await self._tell(EndReason.COMPLETE)
        return GatewayResponse(200, dump(document))

    async def _read_all(self, intake: UpstreamReader) -> bytes:
        data = bytearray()
        while (batch := await intake.next()) is not None:
            data += b"".join(batch)
            if len(data) > self._limits.max_answer_bytes:
                raise UpstreamError(f"the upstream's answer is longer than {self._limits.max_answer_bytes} bytes")
        return bytes(data)

    async def _let_through(self, report: ErrorReport) -> ErrorReport:
        """Return what the upstream says is wrong; if the guard lets its sentence through, with that."""
        report = self._upstream.redacted(report)
        message = report.message
        if message is None:
            return report
        try:
            async with (
                asyncio.timeout(self._limits.guard_timeout_s),
                self._open_guard((), self._call.policy) as stream,
            ):
                await stream.feed(message)
                await stream.finish()
                is_clear = stream.releasable_chars >= len(message)
        except Exception:  # after any error: text that was not judged must not leave
            is_clear = False
        return report if is_clear else ErrorReport(None, report.code, report.kind, report.param, report.status)

    async def _fail(self, answer: GatewayResponse) -> GatewayResponse:
        await self._tell(EndReason.UPSTREAM_FAILED, status=answer.status, error=UpstreamError.code)
        return answer

    async def _tell(self, ending: EndReason, *, status: int = 200, error: str | None = None) -> None:
        """Tell the observer, once."""
        if self._is_told:
            return
        self._is_told = True
        outcome = CallRecord(
            call=self._call,
            model=self._model,
            is_stream=False,
            status=status,
            ending=ending,
            decision=self._decision,
            messages=self._judged,
            prompt=self._judgement,
            parts=(),
            prompt_s=self._prompt_s,
            first_byte_s=None,
            duration_s=self._clock() - self._started,
            guard_s=0.0,  # embeddings have no answer to judge
            num_tokens=0,
            error=error,
        )
        await asyncio.shield(self._observer.finished(outcome))


def _read_texts(body: JsonObject, config: UpstreamConfig) -> list[str]:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_TEXTS:
        raise InputError(f"input must be a string or a list of 1 to {MAX_TEXTS} strings")
    if all(isinstance(text, str) for text in texts):
        return texts
    if not is_token_ids(texts):
        raise InputError("input must be a string or a list of strings")
    if config.prompt.unjudged_input == "refuse":
        raise InputError(
            "input has token ids; this gateway judges text and refuses what it cannot judge (unjudged_input)"
        )
    return []


def _read_embeddings(body: JsonObject) -> JsonObject:
    """Return an answer written anew.

    Raises:
        UpstreamError: It is not a list of embeddings.
    """
    listed, usage, model = body.get("data"), body.get("usage"), body.get("model")
    if not isinstance(listed, list):
        raise UpstreamError("the upstream's answer is not a list of embeddings")
    counts = usage if isinstance(usage, dict) else {}
    return {
        "object": "list",
        "data": [_read_embedding(entry, place) for place, entry in enumerate(listed)],
        "model": model if isinstance(model, str) and is_identifier(model) else "",
        "usage": {name: counts[name] for name in ("prompt_tokens", "total_tokens") if type(counts.get(name)) is int},
    }


def _read_embedding(entry: object, place: int) -> JsonObject:
    found = entry.get("embedding") if isinstance(entry, dict) else None
    is_numbers = isinstance(found, list) and all(type(value) in (int, float) for value in found)
    if not isinstance(entry, dict) or not (is_numbers or (isinstance(found, str) and _BASE64.fullmatch(found))):
        raise UpstreamError("the upstream's embedding is not a list of numbers")
    index = entry.get("index")
    return {"object": "embedding", "index": index if type(index) is int else place, "embedding": found}
