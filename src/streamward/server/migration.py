"""Brings the tables of a database to the state that this program works with."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, MetaData, inspect, text

from streamward.errors import ConfigError

REVISIONS = ("0001", "0002", "0003")
"""The revisions that there are, in order; each is a file in `migrations/versions`."""
_LOCK = 0x73747264  # key of a PostgreSQL advisory lock
_PATIENCE_S = 600  # time to wait for another process that migrates


def upgrade(engine: Engine, tables: MetaData) -> list[str]:
    """Make tables that are missing and change those of an earlier version; one process at a time.

    A database of 0.1.0 holds no revision; it is brought on like an empty one, without touching what is there.

    Args:
        engine: The database.
        tables: What there should be in the end.

    Returns:
        The revisions that were applied.

    Raises:
        ConfigError: The database is of a later version of this program, or its tables are another program's.
        SQLAlchemyError: The database failed. Nothing was changed.
    """
    with engine.connect() as connection:
        if not pending(connection):
            check_tables(connection, tables)
            return []
    with _locked(engine) as connection:
        done = pending(connection)
        if done:
            _migrate(connection)
        check_tables(connection, tables)
    return done


def pending(connection: Connection) -> list[str]:
    """Return the revisions that a database lacks, in order.

    Raises:
        ConfigError: The database is of a later version of this program.
    """
    current = None
    if inspect(connection).has_table("alembic_version"):
        current = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if current is None:
        return list(REVISIONS)
    if current not in REVISIONS:
        raise ConfigError(
            f"the database has revision {current}; this version of streamward knows {REVISIONS[-1]} at most. Install"
            " the version that last used the database, or a later one"
        )
    return list(REVISIONS[REVISIONS.index(current) + 1 :])


def _migrate(connection: Connection) -> None:
    from alembic import command  # a tenth of a service's start, which most need not spend
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "streamward.server:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _locked(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that no other process has at the same time; it is rolled back on errors."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            before = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {_PATIENCE_S * 1000}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_PATIENCE_S * 1000}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        yield connection
        connection.commit()
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}")


def check_tables(connection: Connection, tables: MetaData) -> None:
    """Refuse tables of the same names that hold something else.

    Raises:
        ConfigError: Columns are missing.
    """
    found = inspect(connection)
    for table in tables.sorted_tables:
        there = {column["name"] for column in found.get_columns(table.name)}
        missing = [column.name for column in table.columns if column.name not in there]
        if missing:
            raise ConfigError(
                f"the table {table.name!r} of the database lacks {', '.join(missing)}: it is not this program's. Give"
                " the service a database, or on PostgreSQL a schema, of its own"
            )
