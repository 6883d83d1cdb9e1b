"""The log of decisions as it is read: the latest rows, whole exports, and what is deleted when."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from sqlalchemy import JSON, Engine, Select, delete, or_, select, tuple_, update

from streamward.errors import ConfigError
from streamward.gateway.strict_json import dump
from streamward.server.store import DECISIONS, UtcDateTime, translate_db_errors

Row = Mapping[str, Any]  # Any: column values
_PAGE_ROWS = 1000
_TEXTS = ("prompt_text", "response_text")


class Period(NamedTuple):
    """The rows wanted; None: no bound."""

    since: datetime | None = None
    until: datetime | None = None
    tenant: str | None = None

    def narrow(self, query: Select[Any]) -> Select[Any]:  # Any: the columns chosen
        """Add the bounds to a query."""
        if self.since is not None:
            query = query.where(DECISIONS.c.time >= self.since)
        if self.until is not None:
            query = query.where(DECISIONS.c.time < self.until)
        if self.tenant is not None:
            query = query.where(DECISIONS.c.tenant == self.tenant)
        return query


class Purged(NamedTuple):
    """Counts of deleted rows and texts."""

    num_rows: int
    num_texts: int


def recent(engine: Engine, *, tenant: str | None = None, limit: int = 50, before: str | None = None) -> list[Row]:
    """Return the latest rows, the newest first.

    Args:
        engine: The database.
        tenant: Whose; None: everybody's.
        limit: How many at most.
        before: Id of a row: those before it.

    Raises:
        AuditError: The database failed.
    """
    query = Period(tenant=tenant).narrow(select(DECISIONS)).order_by(DECISIONS.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(DECISIONS.c.id < before)
    with translate_db_errors("decisions cannot be read"), engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def all_rows(engine: Engine, period: Period) -> Iterator[Row]:
    """Yield rows, the oldest first, a page at a time: memory stays flat and no reading lasts long.

    Raises:
        AuditError: The database failed.
    """
    last: tuple[datetime, str] | None = None
    while True:
        query = period.narrow(select(DECISIONS)).order_by(DECISIONS.c.time, DECISIONS.c.id).limit(_PAGE_ROWS)
        if last is not None:
            query = query.where(tuple_(DECISIONS.c.time, DECISIONS.c.id) > last)
        with translate_db_errors("decisions cannot be read"), engine.connect() as connection:
            page = [dict(row) for row in connection.execute(query).mappings()]
        yield from page
        if len(page) < _PAGE_ROWS:
            return
        last = (page[-1]["time"], page[-1]["id"])


def write_jsonl(rows: Iterable[Row], file: TextIO) -> int:
    """Write one JSON object per row, times in ISO 8601, and return the number of rows."""
    count = 0
    for row in rows:
        values = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
        file.write(dump(values).decode() + "\n")
        count += 1
    return count


def write_parquet(rows: Iterable[Row], path: Path) -> int:
    """Write a Parquet file, `details` as JSON text; return how many rows.

    Raises:
        ConfigError: The extra `parquet` is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ConfigError("Parquet needs the package pyarrow; run: pip install 'streamward[parquet]'") from error
    kinds = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
    kinds[datetime], kinds[dict] = pa.timestamp("us", tz="UTC"), pa.string()
    schema = pa.schema([(column.name, kinds[_value_type(column)]) for column in DECISIONS.columns])
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for page in _pages(rows):
            writer.write_table(pa.Table.from_pylist([_flat(row) for row in page], schema=schema))
            count += len(page)
    return count


def _value_type(column: Any) -> type:  # Any: SQLAlchemy's column
    if isinstance(column.type, JSON):
        return dict
    if isinstance(column.type, UtcDateTime):
        return datetime
    kind: type = column.type.python_type
    return kind


def _flat(row: Row) -> dict[str, Any]:  # Any: column values
    details = row["details"]
    return {**row, "details": None if details is None else json.dumps(details)}


def _pages(rows: Iterable[Row]) -> Iterator[list[Row]]:
    page: list[Row] = []
    for row in rows:
        page.append(row)
        if len(page) == _PAGE_ROWS:
            yield page
            page = []
    if page:
        yield page


def purge(engine: Engine, *, now: datetime, retention_days: float | None) -> Purged:
    """Delete rows that are too old, and texts whose time is over.

    Raises:
        AuditError: The database failed.
    """
    has_text = or_(*(DECISIONS.c[name].is_not(None) for name in _TEXTS))
    texts = update(DECISIONS).where(DECISIONS.c.text_until <= now, has_text).values(dict.fromkeys(_TEXTS))
    num_rows = 0
    with translate_db_errors("old decisions cannot be deleted"), engine.begin() as connection:
        if retention_days is not None:
            oldest = now - timedelta(days=retention_days)
            num_rows = connection.execute(delete(DECISIONS).where(DECISIONS.c.time < oldest)).rowcount
        return Purged(num_rows, connection.execute(texts).rowcount)
