"""Statistics of recent decisions for the console: counts, latencies and the latest decisions."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import ceil

from sqlalchemy import Engine, func, select
from sqlalchemy.sql import ColumnElement

from streamward.schema import Action, Category
from streamward.server.logged_decisions import DecisionFilter, LoggedDecision, read_decisions
from streamward.server.store import DECISIONS, translate_db_errors
from streamward.settings import Settings

WINDOW = timedelta(hours=1)
_NUM_RECENT = 25
_NUM_LATENCIES = 5000  # number of the latest decisions read: enough for a percentile, and bounded


class Latency(Settings):
    """Latency of the decisions of one endpoint, in milliseconds."""

    endpoint: str
    count: int
    p50_ms: float
    """From the request to the decision; where a text was judged while it was written, that time is in it."""
    p95_ms: float
    p99_ms: float
    guard_p50_ms: float | None
    """The time spent waiting for the guard alone; None if no decision of the endpoint has it."""
    guard_p95_ms: float | None
    guard_p99_ms: float | None


class Stats(Settings):
    """Decisions of the last hour."""

    actions: dict[Action, int]
    categories: dict[Category, int]
    latencies: tuple[Latency, ...]
    recent: tuple[LoggedDecision, ...]
    """The latest, newest first, however old."""


def read_stats(engine: Engine, tenant: str | None) -> Stats:
    """Read the log of decisions.

    Args:
        engine: Where it is.
        tenant: Whose decisions; None for everybody's.

    Raises:
        AuditError: The database failed.
    """
    within: list[ColumnElement[bool]] = [DECISIONS.c.time >= datetime.now(UTC) - WINDOW]
    if tenant is not None:
        within.append(DECISIONS.c.tenant == tenant)
    guard_ms, prompt_ms = (DECISIONS.c.details[name].as_float() for name in ("guard_ms", "prompt_ms"))
    with translate_db_errors("the log of decisions could not be read"), engine.connect() as connection:
        actions = connection.execute(
            select(DECISIONS.c.action, func.count()).where(*within).group_by(DECISIONS.c.action)
        ).all()
        categories = connection.execute(
            select(DECISIONS.c.category, func.count())
            .where(*within, DECISIONS.c.category.is_not(None))
            .group_by(DECISIONS.c.category)
            .order_by(func.count().desc(), DECISIONS.c.category)
        ).all()
        times = connection.execute(
            select(DECISIONS.c.endpoint, DECISIONS.c.latency_ms, guard_ms + func.coalesce(prompt_ms, 0.0))
            .where(*within)
            .order_by(DECISIONS.c.id.desc())
            .limit(_NUM_LATENCIES)
        ).all()
    return Stats(
        actions={Action(name): count for name, count in actions},
        categories={Category(name): count for name, count in categories},
        latencies=_latencies([tuple(row) for row in times]),
        recent=read_decisions(engine, tenant, DecisionFilter(limit=_NUM_RECENT)),
    )


def _latencies(times: Sequence[tuple[str, float, float | None]]) -> tuple[Latency, ...]:
    whole: dict[str, list[float]] = {}
    guard: dict[str, list[float]] = {}
    for endpoint, latency_ms, guard_ms in times:
        whole.setdefault(endpoint, []).append(latency_ms)
        guard.setdefault(endpoint, []).extend([] if guard_ms is None else [guard_ms])
    return tuple(
        Latency(
            endpoint=endpoint,
            count=len(values),
            p50_ms=percentile(values, 0.50),
            p95_ms=percentile(values, 0.95),
            p99_ms=percentile(values, 0.99),
            guard_p50_ms=percentile(guard[endpoint], 0.50) if guard[endpoint] else None,
            guard_p95_ms=percentile(guard[endpoint], 0.95) if guard[endpoint] else None,
            guard_p99_ms=percentile(guard[endpoint], 0.99) if guard[endpoint] else None,
        )
        for endpoint, values in sorted(whole.items())
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all do not exceed."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]
