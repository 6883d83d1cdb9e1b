"""The log of decisions: one row for each, on the disk before its caller is answered."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, Insert, String, insert
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from streamward.errors import AuditError, OverloadedError
from streamward.moderation.waiting import fail, succeed
from streamward.schema import Action, Category, RiskLevel, Side
from streamward.server.config import AuditConfig
from streamward.server.store import DECISIONS, USAGE, insert_into, translate_db_errors

logger = logging.getLogger(__name__)

_STOPPING = frozenset({Action.BLOCK, Action.REPLACE})
_MAX_LENGTHS: Mapping[str, int | None] = {
    column.name: column.type.length for column in DECISIONS.columns if isinstance(column.type, String)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One decision, as it is logged. From `streamward.server.records`.

    Attributes:
        id: Sorts by time.
        time: When the decision was made.
        tenant: Whose request it was.
        key_id: Which key asked; never the key.
        endpoint: `moderations`, `guard`, `chat`, `streams`, `gateway` or `litellm`.
        request_id: As in the answer's `x-request-id`.
        stream_id: Id of a stream the caller feeds, or the part of an answer (choice and field) that was judged.
        upstream: Name of the guarded server.
        model: The model asked for.
        guard: The guard that judged.
        policy: Name of the policy.
        policy_version: Its version.
        policy_digest: Tells apart policies of one name and version; see `PolicyStore`.
        action: What the caller should do, or the gateway did.
        side: Which side caused it.
        risk_level: The level that caused it; None when the guard failed.
        category: The kind of harm that caused it.
        position: Token of the response at which it became final.
        error: Code of the error when the guard could not judge.
        prompt_risk_level: Level of the prompt; None if it was not judged. Likewise the next three.
        refusal: Whether the response declines to help.
        flagged_start: First flagged character of the side that caused the decision.
        flagged_end: End of the token it lies in.
        num_tokens: Tokens judged, on both sides.
        prompt_chars: Length of the prompt; None if there was none. Likewise for the response.
        prompt_hash: SHA-256 of the prompt's UTF-8, keyed if the settings say so. Likewise for the response.
        latency_ms: From the arrival of the request, or the opening of the stream, to the decision.
        prompt_text: Only if the policy says so. Likewise for the response.
        text_until: When the texts are deleted.
        details: What an endpoint adds, as JSON values without text.
        rules: Rules of the policy that the text breaks: for each its id and score. None if there are none.
    """

    id: str
    time: datetime
    tenant: str
    key_id: str
    endpoint: str
    request_id: str
    guard: str
    policy: str
    policy_version: str
    policy_digest: str
    action: Action
    latency_ms: float
    num_tokens: int = 0
    stream_id: str | None = None
    upstream: str | None = None
    model: str | None = None
    side: Side | None = None
    risk_level: RiskLevel | None = None
    category: Category | None = None
    position: int | None = None
    error: str | None = None
    prompt_risk_level: RiskLevel | None = None
    prompt_category: Category | None = None
    prompt_unsafe: float | None = None
    prompt_controversial: float | None = None
    response_risk_level: RiskLevel | None = None
    response_category: Category | None = None
    response_unsafe: float | None = None
    response_controversial: float | None = None
    refusal: bool | None = None
    flagged_start: int | None = None
    flagged_end: int | None = None
    prompt_chars: int | None = None
    response_chars: int | None = None
    prompt_hash: str | None = None
    response_hash: str | None = None
    prompt_text: str | None = None
    response_text: str | None = None
    text_until: datetime | None = None
    details: Mapping[str, Any] | None = None  # Any: JSON values
    rules: Sequence[Mapping[str, str | float]] | None = None


class AuditMetrics(Protocol):
    """Metrics of the audit log."""

    def audit_written(self, num_rows: int) -> None:
        """Count rows on the disk."""
        ...

    def audit_failed(self, num_rows: int, *, reason: str) -> None:
        """Count rows that could not be written."""
        ...


@dataclass(frozen=True, slots=True)
class _QueuedRecord:
    row: Mapping[str, Any]  # Any: column values
    written: "Future[None]"


class AuditLog:
    """Writes decisions in one thread, as many in one transaction as are waiting. Close it: it owns that thread."""

    def __init__(self, config: AuditConfig, *, engine: Engine, metrics: AuditMetrics) -> None:
        """Start writing to a database whose tables exist."""
        self._config = config
        self._engine = engine
        self._metrics = metrics
        self._queue: queue.Queue[_QueuedRecord | None] = queue.Queue(config.max_waiting)
        self._is_failing = False
        self._is_closed = False
        self._writing_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="streamward-audit", daemon=True)
        self._thread.start()

    @property
    def is_failing(self) -> bool:
        """True if the last write failed, or the current write takes too long."""
        since = self._writing_since
        return self._is_failing or (since is not None and time.monotonic() - since > self._config.timeout_s)

    @property
    def num_waiting(self) -> int:
        """Rows not written yet, about."""
        return self._queue.qsize()

    async def record(self, record: AuditRecord) -> None:
        """Write a decision, and return when it is on the disk: it then survives kill -9.

        A caller that is cancelled meanwhile loses nothing: the row is written all the same.

        Raises:
            AuditError: It could not be written, or not in time. Whatever was decided must not be answered as if it
                had been.
            OverloadedError: Too many rows are waiting.
        """
        written: Future[None] = Future()
        if self._is_closed:
            raise AuditError("the log of decisions is closed")
        try:
            self._queue.put_nowait(_QueuedRecord(_row(record), written))
        except queue.Full as error:
            self._metrics.audit_failed(1, reason="queue_full")
            raise OverloadedError("too many decisions wait to be logged; try again later") from error
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await asyncio.shield(asyncio.wrap_future(written))
        except TimeoutError as error:
            self._metrics.audit_failed(1, reason="timeout")
            raise AuditError(f"a decision was not logged within {self._config.timeout_s:g} s") from error

    def close(self, *, timeout_s: float | None = None) -> bool:
        """Write what is waiting, and stop. May be called again.

        Args:
            timeout_s: For what is waiting to be written; None waits as long as it takes.

        Returns:
            Whether all of it was written in time.
        """
        if not self._is_closed:
            self._is_closed = True
            with suppress(queue.Full):  # the thread checks `_is_closed` itself after it has made room
                self._queue.put_nowait(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        is_last = False
        while not is_last and (first := self._next()) is not None:
            batch, is_last = self._gather(first)
            self._writing_since = time.monotonic()
            try:
                self._write(batch)
            except BaseException as error:  # the thread must survive: without it every caller would wait forever
                self._is_failing = True
                for waiting in batch:
                    fail(waiting.written, AuditError(f"a decision could not be logged: {type(error).__name__}"))
            self._writing_since = None

    def _next(self) -> "_QueuedRecord | None":
        """Wait for a row; None at the end."""
        if self._is_closed and self._queue.empty():
            return None
        return self._queue.get()

    def _gather(self, first: _QueuedRecord) -> tuple[list[_QueuedRecord], bool]:
        """Take what else is waiting; say whether the end was among it."""
        batch = [first]
        while len(batch) < self._config.max_batch:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _write(self, batch: Sequence[_QueuedRecord]) -> None:
        try:
            with translate_db_errors("a decision could not be logged"), self._engine.begin() as connection:
                connection.execute(insert(DECISIONS), [waiting.row for waiting in batch])
                _count_usage(connection, [waiting.row for waiting in batch])
        except AuditError as error:
            if len(batch) > 1 and isinstance(error.__cause__, IntegrityError | DataError):
                for waiting in batch:  # one bad row must not make the others fail
                    self._write([waiting])
                return
            self._fail(batch, error)
        except Exception as error:
            self._fail(batch, AuditError(f"a decision could not be logged: {type(error).__name__}"))
        else:
            self._is_failing = False
            self._metrics.audit_written(len(batch))
            for waiting in batch:
                succeed(waiting.written, None)

    def _fail(self, batch: Sequence[_QueuedRecord], error: AuditError) -> None:
        self._is_failing = True
        reason = type(error.__cause__).__name__ if isinstance(error.__cause__, SQLAlchemyError) else "other"
        self._metrics.audit_failed(len(batch), reason=reason)
        logger.error("decisions could not be logged", extra={"num_rows": len(batch), "reason": str(error)})
        for waiting in batch:
            fail(waiting.written, AuditError(str(error)))


def _row(record: AuditRecord) -> dict[str, Any]:  # Any: column values
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    for name, length in _MAX_LENGTHS.items():
        if isinstance(values[name], str):
            values[name] = sanitize_for_db(values[name])[:length]
    return values


def sanitize_for_db(text: str) -> str:
    """Return a text as databases take it: lone surrogates and NUL become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", "\ufffd")


@cache
def _add_usage(dialect: str) -> Insert:
    statement = insert_into(USAGE, dialect)
    columns = (column for column in USAGE.c if column.name.startswith("num_"))
    added = {column.name: column + statement.excluded[column.name] for column in columns}
    return statement.on_conflict_do_update(index_elements=["key_id", "day"], set_=added)


def _count_usage(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:  # Any: column values
    counts: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["key_id"], row["time"].date().isoformat())
        count = counts.setdefault(
            key,
            {"tenant": row["tenant"], "num_decisions": 0, "num_stopped": 0, "num_tokens": 0, "num_chars": 0},
        )
        count["num_decisions"] += 1
        count["num_stopped"] += row["action"] in _STOPPING
        count["num_tokens"] += row["num_tokens"]
        count["num_chars"] += (row["prompt_chars"] or 0) + (row["response_chars"] or 0)
    added = [{"key_id": key_id, "day": day, **count} for (key_id, day), count in sorted(counts.items())]
    # Sorted, so that two processes lock rows in the same order.
    connection.execute(_add_usage(connection.dialect.name), added)
