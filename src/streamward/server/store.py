"""The database of a service: its tables, and how it is opened."""

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from streamward.errors import AuditError, ConfigError
from streamward.server.config import StoreConfig, state_folder
from streamward.server.migration import REVISIONS, check_tables, pending, upgrade

if TYPE_CHECKING:
    from sqlalchemy.dialects.postgresql import dml as postgresql_dml
    from sqlalchemy.dialects.sqlite import dml as sqlite_dml

logger = logging.getLogger(__name__)
_WAL_PATIENCE_S = 30.0
_WAL_RETRY_S = 0.02


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone on PostgreSQL; the same in UTC on SQLite, which knows no zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Write UTC."""
        del dialect
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Read UTC."""
        del dialect
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


METADATA = MetaData()
"""The tables as this program works with them. What changes here needs a migration, in `migrations/versions`."""

DECISIONS = Table(
    "decisions",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("time", UtcDateTime, nullable=False, index=True),
    Column("tenant", String(64), nullable=False),
    Column("key_id", String(32), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("request_id", String(80), nullable=False, index=True),
    Column("stream_id", String(80)),
    Column("upstream", String(64)),
    Column("model", String(200)),
    Column("guard", String(200), nullable=False),
    Column("policy", String(200), nullable=False),
    Column("policy_version", String(200), nullable=False),
    Column("policy_digest", String(16), nullable=False),
    Column("action", String(16), nullable=False),
    Column("side", String(16)),
    Column("risk_level", String(16)),
    Column("category", String(64)),
    Column("position", Integer),
    Column("error", String(64)),
    Column("prompt_risk_level", String(16)),
    Column("prompt_category", String(64)),
    Column("prompt_unsafe", Float),
    Column("prompt_controversial", Float),
    Column("response_risk_level", String(16)),
    Column("response_category", String(64)),
    Column("response_unsafe", Float),
    Column("response_controversial", Float),
    Column("refusal", Boolean),
    Column("flagged_start", Integer),
    Column("flagged_end", Integer),
    Column("num_tokens", Integer, nullable=False),
    Column("prompt_chars", Integer),
    Column("response_chars", Integer),
    Column("prompt_hash", String(64)),
    Column("response_hash", String(64)),
    Column("latency_ms", Float, nullable=False),
    Column("prompt_text", Text),
    Column("response_text", Text),
    Column("text_until", UtcDateTime, index=True),
    Column("details", JSON),
    Column("rules", JSON),
    Index("ix_decisions_tenant_id", "tenant", "id"),
)

API_KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("hash", String(64), nullable=False),
    Column("tenant", String(64), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("policy", String(200)),
    Column("other_policies", JSON, nullable=False),
    Column("upstreams", JSON),
    Column("is_admin", Boolean, nullable=False),
    Column("requests_per_minute", Integer),
    Column("max_concurrent", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

USAGE = Table(
    "usage",
    METADATA,
    Column("key_id", String(32), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("num_decisions", BigInteger, nullable=False),
    Column("num_stopped", BigInteger, nullable=False),
    Column("num_tokens", BigInteger, nullable=False),
    Column("num_chars", BigInteger, nullable=False),
)

POLICY_VERSIONS = Table(
    "policy_versions",
    METADATA,
    Column("digest", String(16), primary_key=True),
    Column("name", String(200), nullable=False, index=True),
    Column("version", String(200), nullable=False),
    Column("first_used", UtcDateTime, nullable=False),
    Column("body", JSON, nullable=False),
)


def open_store(config: StoreConfig) -> Engine:
    """Open the database, and make or migrate its tables where need be.

    Raises:
        ConfigError: The URL is wrong, its driver is not installed, the database cannot be reached, or it is of a later
            version of this program.
    """
    engine = connect_store(config)
    with ExitStack() as undo:
        undo.callback(engine.dispose)
        with translate_open_errors():
            if config.is_default:
                state_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
            if done := upgrade(engine, METADATA):
                logger.info("database migrated", extra={"revisions": ", ".join(done)})
        undo.pop_all()
    return engine


def pending_revisions(config: StoreConfig) -> list[str]:
    """Return the revisions that `open_store` would apply; nothing is changed, and no file is made.

    Raises:
        ConfigError: As `open_store`.
    """
    engine = connect_store(config)
    path = engine.url.database
    if engine.dialect.name == "sqlite" and path and not Path(path).exists():
        _check_folder(Path(path).parent, is_made=config.is_default)
        return list(REVISIONS)
    try:
        with translate_open_errors(), engine.connect() as connection:
            waiting = pending(connection)
            if not waiting:
                check_tables(connection, METADATA)
            return waiting
    finally:
        engine.dispose()


def _check_folder(folder: Path, *, is_made: bool) -> None:
    if is_made:
        folder = next(each for each in (folder, *folder.parents) if each.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ConfigError(f"the database cannot be made: {str(folder)!r} is not a folder that may be written to")


def connect_store(config: StoreConfig) -> Engine:
    """Return the database as it is; nothing is asked of it yet.

    Raises:
        ConfigError: The URL is wrong, or its driver is not installed.
    """
    try:
        url = make_url(config.secret_url().get_secret_value())
    except ArgumentError as error:
        raise ConfigError(
            "store.url is not a database URL; write sqlite:///file or postgresql+psycopg://host/name"
        ) from error
    if url.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ConfigError(f"store.url is for {url.get_backend_name()}; it must be sqlite or postgresql")
    with translate_open_errors():
        return _sqlite(url, config) if url.get_backend_name() == "sqlite" else _postgresql(url, config)


@contextmanager
def translate_open_errors() -> Iterator[None]:
    """Turn what goes wrong with a database at start into an error of the settings.

    Raises:
        ConfigError: Something did.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"store.url needs the package {error.name}; run: pip install 'streamward[postgres]'"
        ) from error
    except (SQLAlchemyError, OSError) as error:
        raise ConfigError(f"the database cannot be opened: {_reason(error)}") from error


def _sqlite(url: Any, config: StoreConfig) -> Engine:  # Any: SQLAlchemy's URL
    engine = create_engine(url, connect_args={"timeout": config.timeout_s}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:  # Any: sqlite3's connection behind SQLAlchemy's
        cursor = connection.cursor()
        _use_wal(cursor)
        cursor.execute("PRAGMA synchronous=FULL")  # a commit is on the disk when it returns
        cursor.close()

    return engine


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Switch the file to a write-ahead log, with which readers do not wait for the writer; it stays so.

    SQLite does not wait with this statement for whoever writes at the time, as another service that makes the tables.
    """
    deadline = time.monotonic() + _WAL_PATIENCE_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_RETRY_S)
        else:
            return


def _postgresql(url: Any, config: StoreConfig) -> Engine:  # Any: SQLAlchemy's URL
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    seconds = max(1, round(config.timeout_s))
    options = f"-c statement_timeout={int(config.timeout_s * 1000)} -c timezone=UTC"
    return create_engine(
        url,
        connect_args={"connect_timeout": seconds, "options": options},
        pool_timeout=config.timeout_s,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def insert_into(table: Table, dialect: str) -> "sqlite_dml.Insert | postgresql_dml.Insert":
    """Return a statement that inserts and may say what happens to rows that are there.

    Args:
        table: Where to.
        dialect: `sqlite` or `postgresql`.
    """
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(table)
    from sqlalchemy.dialects.postgresql import insert  # its drivers' modules: not for those who have none

    return insert(table)


@contextmanager
def translate_db_errors(what: str) -> Iterator[None]:
    """Turn the database's errors into ours, without the values that they may repeat.

    Raises:
        AuditError: The database failed.
    """
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise AuditError(f"{what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Name what went wrong; a driver's message may repeat values, so only SQLite's short ones are passed on."""
    origin = getattr(error, "orig", None) or error
    text = str(origin)
    known = (
        "database is locked",
        "disk is full",
        "unable to open database file",
        "readonly database",
        "disk I/O error",
    )
    return next((phrase for phrase in known if phrase in text), type(origin).__name__)
