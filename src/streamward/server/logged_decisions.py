"""Logged decisions as the console shows them: filtered, newest first, without any text."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Engine, RowMapping, select
from sqlalchemy.sql import ColumnElement

from streamward.schema import Action, Category, RiskLevel, Side
from streamward.server.records import guard_ms
from streamward.server.store import DECISIONS, translate_db_errors
from streamward.settings import Settings

_WRITTEN_MEANWHILE = frozenset({"streams", "gateway", "litellm"})
"""Endpoints whose latency includes the time in which the text was written."""
_SHORT = Annotated[str, Field(min_length=1, max_length=200)]


class LoggedRule(Settings):
    """A rule that a text breaks."""

    id: str
    score: float


class LoggedDecision(Settings):
    """One row of the log of decisions; no text and no hash of one."""

    id: str
    time: datetime
    tenant: str
    key_id: str
    endpoint: str
    request_id: str
    stream_id: str | None
    upstream: str | None
    model: str | None
    guard: str
    policy: str
    policy_version: str
    policy_digest: str
    action: Action
    side: Side | None
    risk_level: RiskLevel | None
    category: Category | None
    position: int | None
    error: str | None
    prompt_risk_level: RiskLevel | None
    prompt_category: Category | None
    prompt_unsafe: float | None
    prompt_controversial: float | None
    response_risk_level: RiskLevel | None
    response_category: Category | None
    response_unsafe: float | None
    response_controversial: float | None
    refusal: bool | None
    flagged_start: int | None
    flagged_end: int | None
    num_tokens: int
    prompt_chars: int | None
    response_chars: int | None
    latency_ms: float
    """From the arrival of the request, or the opening of the stream, to the decision, in milliseconds."""
    guard_ms: float | None
    """The part of it that was spent waiting for the guard; None if it was not measured."""
    writing_ms: float | None
    """The rest, in which the text was written; None for texts that came whole, and where guard_ms is None."""
    rules: tuple[LoggedRule, ...] | None
    """Rules of the policy that the text breaks; None if there are none."""
    details: Mapping[str, Any] | None  # Any: JSON values
    """Facts that the endpoint added, for example how a stream ended."""


class DecisionFilter(Settings):
    """Filter of decisions, the parameters of a query; None: any."""

    action: Action | None = None
    side: Side | None = None
    category: Category | None = None
    endpoint: _SHORT | None = None
    policy: _SHORT | None = None
    upstream: _SHORT | None = None
    request_id: _SHORT | None = Field(
        default=None,
        description="As in the header `x-request-id` of the answer; a guarded answer has one decision for each of its"
        " texts.",
    )
    before: Annotated[str, Field(max_length=40)] | None = Field(
        default=None, description="Id of a decision: only those before it."
    )
    limit: int = Field(default=25, ge=1, le=200, description="Maximum number of decisions.")

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions of a query."""
        wanted = self.model_dump(exclude={"before", "limit"}, exclude_none=True)
        found: list[ColumnElement[bool]] = [DECISIONS.c[name] == value for name, value in wanted.items()]
        return found if self.before is None else [*found, DECISIONS.c.id < self.before]


def read_decisions(engine: Engine, tenant: str | None, wanted: DecisionFilter) -> tuple[LoggedDecision, ...]:
    """Return the latest decisions, the newest first.

    Args:
        engine: The database.
        tenant: Whose decisions; None for everybody's.
        wanted: Which of them, and how many.

    Raises:
        AuditError: The database failed.
    """
    whose = [] if tenant is None else [DECISIONS.c.tenant == tenant]
    columns = [DECISIONS.c[name] for name in LoggedDecision.model_fields if name in DECISIONS.c]
    query = select(*columns).where(*whose, *wanted.conditions()).order_by(DECISIONS.c.id.desc()).limit(wanted.limit)
    with translate_db_errors("the log of decisions could not be read"), engine.connect() as connection:
        return tuple(map(_decision, connection.execute(query).mappings()))


def _decision(row: RowMapping) -> LoggedDecision:
    guard = guard_ms(row["details"])
    is_written_meanwhile = guard is not None and row["endpoint"] in _WRITTEN_MEANWHILE
    writing = max(0.0, row["latency_ms"] - guard) if guard is not None and is_written_meanwhile else None
    return LoggedDecision.model_validate({**row, "guard_ms": guard, "writing_ms": writing})
