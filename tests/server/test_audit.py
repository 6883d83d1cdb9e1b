"""The log of decisions: nothing answered is lost, and what cannot be logged is not answered."""

import asyncio
import hashlib
import hmac
import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from pyarrow import parquet

from streamward.policy import Policy
from streamward.server.audit import sanitize_for_db
from streamward.server.audit_reading import Period, all_rows, purge, recent, write_jsonl, write_parquet
from streamward.server.logged_decisions import DecisionFilter, read_decisions
from streamward.server.stats import read_stats
from tests.server.databases import has_postgres, postgres, start_postgres, stop_postgres
from tests.server.services import open_service

REPOSITORY = Path(__file__).parents[2]
STRANGE = ["\t.", "hello", "中文 👩‍💻", "a\x00b", "\ud83d", "x" * 2000, "'; drop table decisions; --"]


@pytest.fixture(scope="module")
def postgres_url():
    if not has_postgres():
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        with postgres(Path(folder) / "server") as url:
            yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def logged(request, tmp_path):
    """A service on each kind of database, empty, whose policy keeps all texts."""
    store = {}
    if request.param == "postgresql":
        store = {"url": request.getfixturevalue("postgres_url")}
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "keep.toml").write_text('name = "keep"\nversion = "7"\n[recording]\ntext = "always"\ndays = 2\n')
    with open_service(tmp_path, store=store, policies={"folder": str(policies)}) as service:
        with service.state.engine.begin() as connection:
            for table in ("decisions", "usage", "api_keys"):
                connection.exec_driver_sql(f"delete from {table}")
        yield service


def judge(service, text="hello", policy="strict", **more):
    return service.post("/v1/guard", {"prompt": text, "policy": policy, **more})


def test_a_row_says_what_was_decided_by_which_policy(logged):
    answer = judge(logged, policy="keep", response="the other thing").json()
    (row,) = recent(logged.state.engine)
    assert row["request_id"] == answer["id"]
    assert row["action"] == answer["decision"]["action"]
    assert (row["policy"], row["policy_version"]) == ("keep", "7")
    assert row["policy_digest"] == answer["policy"]["digest"]
    assert row["prompt_risk_level"] == answer["prompt"]["risk_level"]
    assert row["response_unsafe"] == pytest.approx(answer["response"]["probabilities"]["Unsafe"], abs=1e-6)
    assert row["prompt_hash"] == hashlib.sha256(b"hello").hexdigest()
    assert (row["prompt_chars"], row["response_chars"]) == (5, 15)
    assert row["tenant"] == row["key_id"] == "local"
    assert 0 < row["latency_ms"] < 60_000
    assert abs(datetime.now(UTC) - row["time"]) < timedelta(minutes=1)


def test_texts_are_kept_only_if_the_policy_says_so(logged):
    judge(logged, policy="strict")
    judge(logged, policy="keep")
    kept, hashed = recent(logged.state.engine)
    assert (hashed["prompt_text"], hashed["text_until"]) == (None, None)
    assert kept["prompt_text"] == "hello"
    assert kept["text_until"] - kept["time"] == timedelta(days=2)


def test_whatever_the_text_it_can_be_logged(logged):
    for text in STRANGE:
        assert judge(logged, sanitize_for_db(text) if "\ud83d" in text else text, policy="keep").status_code == 200
    assert [row["prompt_text"] for row in reversed(recent(logged.state.engine))] == [
        sanitize_for_db(text) for text in STRANGE
    ]


def test_usage_is_counted_with_the_decisions(logged):
    headers = logged.key("acme")
    for _ in range(3):
        logged.post("/v1/guard", {"prompt": "hello"}, headers=headers)
    (count,) = logged.state.keys.usage(tenant="acme")
    assert (count["num_decisions"], count["num_chars"]) == (3, 15)


def test_many_at_once_are_all_written(logged):
    async def used(client: httpx.AsyncClient):
        return await asyncio.gather(*(client.post("/v1/guard", json={"prompt": f"n{n}"}) for n in range(60)))

    answers = logged.run(used)
    assert {answer.status_code for answer in answers} == {200}
    assert {row["request_id"] for row in recent(logged.state.engine, limit=100)} == {
        answer.json()["id"] for answer in answers
    }


def test_exports_hold_every_row_once_in_order(logged, tmp_path):
    for index in range(5):
        judge(logged, f"text {index}", policy="keep")
    rows = list(all_rows(logged.state.engine, Period()))
    lines = tmp_path / "out.jsonl"
    with lines.open("w") as file:
        assert write_jsonl(rows, file) == 5
    assert [json.loads(line)["prompt_text"] for line in lines.read_text().splitlines()] == [
        f"text {index}" for index in range(5)
    ]
    assert write_parquet(rows, tmp_path / "out.parquet") == 5
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    assert [row["time"] for row in table] == [row["time"] for row in rows]
    middle = rows[2]["time"]
    assert len(list(all_rows(logged.state.engine, Period(since=middle)))) == 3
    assert len(list(all_rows(logged.state.engine, Period(until=middle)))) == 2
    assert list(all_rows(logged.state.engine, Period(tenant="another"))) == []


def test_old_texts_go_first_then_old_rows(logged):
    judge(logged, policy="keep")
    engine, now = logged.state.engine, datetime.now(UTC)
    assert purge(engine, now=now + timedelta(days=1), retention_days=90) == (0, 0)
    assert purge(engine, now=now + timedelta(days=3), retention_days=90) == (0, 1)
    assert recent(engine)[0]["prompt_text"] is None
    assert purge(engine, now=now + timedelta(days=91), retention_days=None) == (0, 0)
    assert purge(engine, now=now + timedelta(days=91), retention_days=90) == (1, 0)
    assert recent(engine) == []


def test_a_row_that_cannot_be_written_does_not_take_others_with_it(logged):
    async def used(client: httpx.AsyncClient):
        await client.post("/v1/guard", json={"prompt": "hello"})
        (row,) = recent(logged.state.engine)
        record = await record_of(logged, row["id"])
        good = [replace(record, id=f"dec_{n}") for n in range(5)]
        return await asyncio.gather(
            *(logged.state.audit.record(each) for each in [good[0], record, *good[1:]]), return_exceptions=True
        )

    outcomes = logged.run(used)
    assert [type(outcome).__name__ for outcome in outcomes] == ["NoneType", "AuditError", *["NoneType"] * 4]
    assert len(recent(logged.state.engine)) == 6


async def record_of(service, record_id):
    from streamward.server.records import ModerationContext, Texts, build_record
    from streamward.server.state import ServiceState

    assert isinstance(service.state, ServiceState)
    kept = service.state.policies.get("strict")
    result = await service.state.with_policy(kept).amoderate(prompt="hello")
    job = ModerationContext(request_id="r", tenant="t", key_id="k", endpoint="guard", policy=kept)
    record = build_record(job, result, texts=Texts("hello"), guard="g", hash_key=None)
    return replace(record, id=record_id)


def test_hashes_are_keyed_where_the_settings_give_a_key(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_HASH_KEY", "pepper")
    with open_service(tmp_path, audit={"hash_key_env": "MY_HASH_KEY"}) as service:
        judge(service)
        assert recent(service.state.engine)[0]["prompt_hash"] == hmac.new(b"pepper", b"hello", "sha256").hexdigest()


def test_a_locked_database_fails_closed_and_shows(tmp_path):
    with open_service(tmp_path, store={"timeout_s": 0.1}) as service:
        assert judge(service).status_code == 200
        blocker = sqlite3.connect(tmp_path / "service.sqlite3", isolation_level=None)
        blocker.execute("begin immediate")
        refused = judge(service)
        assert refused.status_code == 503
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("audit_error", "audit_failed")
        assert refused.headers["retry-after"]
        assert "locked" in refused.json()["error"]["message"]
        assert service.metric("streamward_audit_failures_total", reason="OperationalError") == 1
        assert service.get("/ready").status_code == 503
        blocker.execute("rollback")
        assert judge(service).status_code == 200
        assert service.get("/ready").status_code == 200
        assert service.metric("streamward_audit_rows_total") == 2
        blocker.close()


def test_a_full_disk_fails_closed_and_shows(tmp_path):
    with open_service(tmp_path) as service:
        assert judge(service).status_code == 200
        with service.state.engine.connect() as connection:
            pages = connection.exec_driver_sql("pragma page_count").scalar_one()

        @service_connect(service.state.engine)
        def no_more_pages(connection, record):
            connection.execute(f"pragma max_page_count={pages}")

        service.state.engine.dispose()
        texts = {"prompt": "hello", "response": "x"}
        statuses = [service.post("/v1/guard", texts).status_code for _ in range(60)]
        assert statuses[-1] == 503
        assert service.metric("streamward_audit_failures_total", reason="OperationalError") > 0
        assert service.metric("streamward_audit_rows_total") == 1 + statuses.count(200)
        assert len(recent(service.state.engine, limit=100)) == 1 + statuses.count(200)


def service_connect(engine):
    from sqlalchemy import event

    return event.listens_for(engine, "connect")


@pytest.mark.skipif(not has_postgres(), reason="PostgreSQL is not installed")
def test_a_database_server_that_dies_fails_closed_until_it_is_back(tmp_path):
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "server"
        with postgres(folder) as url, open_service(tmp_path, store={"url": url, "timeout_s": 2.0}) as service:
            assert judge(service).status_code == 200
            stop_postgres(folder)
            assert judge(service).status_code == 503
            assert service.get("/ready").status_code == 503
            start_postgres(folder)
            assert judge(service).status_code == 200
            assert len(recent(service.state.engine)) == 2


def test_the_queue_of_rows_is_bounded(tmp_path):
    with open_service(tmp_path, audit={"max_waiting": 1, "max_batch": 1}, store={"timeout_s": 0.5}) as service:
        blocker = sqlite3.connect(tmp_path / "service.sqlite3", isolation_level=None)
        blocker.execute("begin immediate")

        async def used(client: httpx.AsyncClient):
            return await asyncio.gather(*(client.post("/v1/guard", json={"prompt": "x"}) for _ in range(8)))

        answers = service.run(used)
        assert {answer.status_code for answer in answers} == {503}
        assert "overloaded" in {answer.json()["error"]["code"] for answer in answers}
        assert service.metric("streamward_audit_failures_total", reason="queue_full") > 0
        blocker.close()


def test_a_killed_service_has_lost_no_row_of_a_finished_answer(tmp_path):
    command = [sys.executable, "-m", "tests.server.durable", str(tmp_path)]
    environment = {"PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}", "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        command, env=environment, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    address = process.stdout.readline().strip()
    answered: set[str] = set()
    is_enough = threading.Event()

    def ask(client: httpx.Client) -> None:
        try:
            while True:
                answer = client.post(f"{address}/v1/guard", json={"prompt": "hello"})
                answered.add(answer.json()["id"])
                if len(answered) >= 100:
                    is_enough.set()
        except httpx.HTTPError:
            return

    with ThreadPoolExecutor(8) as pool, httpx.Client(timeout=30) as client:
        asking = [pool.submit(ask, client) for _ in range(8)]
        assert is_enough.wait(60)
        process.kill()
        for each in asking:
            each.result()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    with sqlite3.connect(tmp_path / "service.sqlite3") as connection:
        kept = {row[0] for row in connection.execute("select request_id from decisions")}
    connection.close()
    assert len(answered) >= 100
    assert answered <= kept


def test_a_policy_says_whether_texts_of_flagged_traffic_are_kept():
    assert Policy(name="x").recording.text == "never"
    assert Policy(name="x", recording={"text": "flagged"}).recording.days == 30


def test_statistics_and_decisions_are_read_from_every_kind_of_database(logged):
    for text in ("hello", "how are you"):
        judge(logged, text, policy="keep")
    stats = read_stats(logged.state.engine, None)
    (latency,) = stats.latencies
    assert (latency.endpoint, latency.count) == ("guard", 2)
    assert latency.guard_p50_ms is not None
    assert 0 < latency.guard_p50_ms <= latency.p99_ms
    found = read_decisions(logged.state.engine, None, DecisionFilter(policy="keep", limit=1))
    assert [each.id for each in found] == [stats.recent[0].id]
    assert found[0].guard_ms == pytest.approx(found[0].details["guard_ms"])
