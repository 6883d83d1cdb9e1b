"""Statistics of recent decisions for the page: counts, latencies and the latest decisions."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import ceil

from sqlalchemy import Engine, RowMapping, func, select
from sqlalchemy.sql import ColumnElement

from streamward.schema import Action, Category, RiskLevel, Side
from streamward.server.store import DECISIONS, translate_db_errors
from streamward.settings import Settings

WINDOW = timedelta(hours=1)
_NUM_RECENT = 25
_NUM_LATENCIES = 5000  # of the latest decisions: enough for a percentile, and bounded


class Latency(Settings):
    """Latency of the decisions of one endpoint, in milliseconds."""

    endpoint: str
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


class RecentDecision(Settings):
    """One decision; no text."""

    id: str
    time: datetime
    tenant: str
    endpoint: str
    stream_id: str | None
    upstream: str | None
    action: Action
    side: Side | None
    risk_level: RiskLevel | None
    category: Category | None
    error: str | None
    num_tokens: int
    latency_ms: float


class Numbers(Settings):
    """Decisions of the last hour."""

    actions: dict[Action, int]
    categories: dict[Category, int]
    latencies: tuple[Latency, ...]
    recent: tuple[RecentDecision, ...]
    """The latest, newest first, however old."""


def read_numbers(engine: Engine, tenant: str | None) -> Numbers:
    """Read the log of decisions.

    Args:
        engine: Where it is.
        tenant: Whose decisions; None for everybody's.

    Raises:
        AuditError: The database failed.
    """
    whose: list[ColumnElement[bool]] = [] if tenant is None else [DECISIONS.c.tenant == tenant]
    within = [*whose, DECISIONS.c.time >= datetime.now(UTC) - WINDOW]
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
            select(DECISIONS.c.endpoint, DECISIONS.c.latency_ms)
            .where(*within)
            .order_by(DECISIONS.c.id.desc())
            .limit(_NUM_LATENCIES)
        ).all()
        recent = connection.execute(
            select(*(DECISIONS.c[name] for name in RecentDecision.model_fields))
            .where(*whose)
            .order_by(DECISIONS.c.id.desc())
            .limit(_NUM_RECENT)
        ).mappings()
        return Numbers(
            actions={Action(name): count for name, count in actions},
            categories={Category(name): count for name, count in categories},
            latencies=_latencies([(endpoint, latency_ms) for endpoint, latency_ms in times]),
            recent=tuple(_recent(row) for row in recent),
        )


def _recent(row: RowMapping) -> RecentDecision:
    return RecentDecision.model_validate(dict(row))


def _latencies(times: Sequence[tuple[str, float]]) -> tuple[Latency, ...]:
    found: dict[str, list[float]] = {}
    for endpoint, latency_ms in times:
        found.setdefault(endpoint, []).append(latency_ms)
    return tuple(
        Latency(
            endpoint=endpoint,
            count=len(values),
            p50_ms=_percentile(values, 0.50),
            p95_ms=_percentile(values, 0.95),
            p99_ms=_percentile(values, 0.99),
        )
        for endpoint, values in sorted(found.items())
    )


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all do not exceed."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]
