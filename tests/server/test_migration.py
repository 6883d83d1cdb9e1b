"""Databases of earlier and later versions."""

import json
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from streamward.cli.main import main
from streamward.errors import ConfigError
from streamward.server import migrations
from streamward.server.config import StoreConfig
from streamward.server.migration import REVISIONS
from streamward.server.store import METADATA, open_store
from tests.server.databases import has_postgres, postgres
from tests.server.services import open_service

SCHEMAS = Path(__file__).parent / "schemas"
NEEDS_POSTGRES = pytest.mark.skipif(not has_postgres(), reason="needs PostgreSQL")
ROWS = (
    "insert into api_keys (id, hash, tenant, name, other_policies, is_admin, created_at)"
    " values ('abcdefghij', 'h', 'acme', 'old', '[]', {false}, '2026-01-31 12:00:00')",
    "insert into usage values ('abcdefghij', '2026-01-31', 'acme', 1, 0, 5, 20)",
)


@pytest.fixture(scope="module")
def server():
    """The URL of a PostgreSQL."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        with postgres(Path(folder) / "server") as found:
            yield found


@pytest.fixture
def sqlite(tmp_path):
    return f"sqlite:///{tmp_path / 'service.sqlite3'}"


@pytest.fixture
def postgresql(server):
    name = f"db_{token_hex(4)}"
    engine = engine_of(server)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=NEEDS_POSTGRES)])
def url(request):
    """The URL of an empty database."""
    return request.getfixturevalue(request.param)


def engine_of(url: str):
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


@pytest.fixture
def old(url):
    """A database as version 0.1.0 left it, with a key and some usage."""
    engine = engine_of(url)
    script = (SCHEMAS / f"0.1.0.{engine.dialect.name}.sql").read_text(encoding="utf-8")
    false = "0" if engine.dialect.name == "sqlite" else "false"
    with engine.begin() as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.execute(text(statement))
        for row in ROWS:
            connection.execute(text(row.format(false=false)))
    engine.dispose()
    return url


def test_a_new_database_has_the_tables_that_the_program_works_with(url):
    engine = open_store(StoreConfig(url=url))
    with engine.connect() as connection:
        found = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(found, METADATA) == []
    engine.dispose()


def test_a_database_of_0_1_0_is_migrated_and_keeps_what_it_holds(old):
    engine = open_store(StoreConfig(url=old))
    with engine.connect() as connection:
        found = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(found, METADATA) == []
        assert connection.execute(text("select tenant, name from api_keys")).all() == [("acme", "old")]
        assert connection.execute(text("select num_tokens from usage")).scalar() == 5
        assert connection.execute(text("select version_num from alembic_version")).scalar() == "0003"
    names = {index["name"] for index in inspect(engine).get_indexes("decisions")}
    assert "ix_decisions_tenant_id" in names
    assert "ix_decisions_tenant" not in names
    engine.dispose()


def test_a_service_starts_on_a_database_of_0_1_0(tmp_path):
    with sqlite3.connect(tmp_path / "service.sqlite3") as connection:
        connection.executescript((SCHEMAS / "0.1.0.sqlite.sql").read_text(encoding="utf-8"))
    connection.close()
    with open_service(tmp_path) as service:
        assert service.post("/v1/guard", {"prompt": "hello"}).status_code == 200
        assert len(service.get("/v1/stats").json()["stats"]["recent"]) == 1


@pytest.mark.parametrize("is_old", [True, False])
def test_services_that_start_at_once_migrate_once(request, url, is_old):
    if is_old:
        request.getfixturevalue("old")
    num, barrier = 6, Barrier(6)

    def start(_: int) -> None:
        barrier.wait()
        open_store(StoreConfig(url=url)).dispose()

    with ThreadPoolExecutor(num) as pool:
        assert list(pool.map(start, range(num))) == [None] * num
    engine = engine_of(url)
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from alembic_version")).scalar() == 1
    engine.dispose()


def test_a_database_of_a_later_version_is_refused_and_left_alone(url):
    open_store(StoreConfig(url=url)).dispose()
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '0999'"))
    with pytest.raises(ConfigError, match=r"0999.*0003"):
        open_store(StoreConfig(url=url))
    with engine.connect() as connection:
        assert connection.execute(text("select version_num from alembic_version")).scalar() == "0999"
    engine.dispose()


def test_a_table_of_another_program_is_refused_and_nothing_is_changed(url):
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(text("create table usage (key_id varchar(32), day varchar(10))"))
    with pytest.raises(ConfigError, match=r"'usage'.*num_tokens"):
        open_store(StoreConfig(url=url))
    assert inspect(engine).get_table_names() == ["usage"]
    engine.dispose()


def test_the_command_says_what_is_to_be_migrated_and_does_it(old, capsys):
    database = ["--set", f"store.url={old}"]
    assert main(["store", "check", *database]) == 0
    assert "0001, 0002" in capsys.readouterr().out
    assert main(["store", "upgrade", *database]) == 0
    assert "0001, 0002" in capsys.readouterr().err
    assert main(["store", "check", *database]) == 0
    assert "as this version needs it" in capsys.readouterr().out
    assert main(["keys", "list", *database]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "abcdefghij"


def test_checking_makes_no_database(tmp_path, capsys):
    path = tmp_path / "new.sqlite3"
    assert main(["store", "check", "--set", f"store.url=sqlite:///{path}"]) == 0
    assert "0001" in capsys.readouterr().out
    assert not path.exists()
    assert main(["store", "check", "--set", "store.url=sqlite:////nonexistent/folder/x.db"]) == 2


def test_the_revisions_are_the_files_in_their_order():
    found = ScriptDirectory(str(Path(migrations.__file__).parent)).walk_revisions()
    assert tuple(each.revision for each in found)[::-1] == REVISIONS


def test_a_database_that_is_up_to_date_is_opened_without_the_tool_that_migrates(sqlite):
    open_store(StoreConfig(url=sqlite)).dispose()
    program = (
        "import sys; from streamward.server.config import StoreConfig; from streamward.server.store import open_store;"
        f"open_store(StoreConfig(url={sqlite!r})).dispose(); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
