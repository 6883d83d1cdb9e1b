"""Running the service: health, metrics, logs, settings, drain, the commands."""

import asyncio
import io
import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from streamward.cli.main import main
from streamward.errors import ConfigError
from streamward.observability import JsonFormatter, set_up_logging
from streamward.schema import Action
from streamward.server.config import ServeConfig
from streamward.server.moderations import OPENAI_KEYS
from tests.server.services import bounded, open_service, served, settings

REPOSITORY = Path(__file__).parents[2]


def test_a_living_service_says_so_without_a_key(closed_service):
    assert closed_service.get("/health").json() == {"status": "ok"}
    assert closed_service.get("/ready").json()["status"] == "ready"
    assert closed_service.get("/metrics").headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/ready",
        "/metrics",
        "/v1/usage",
        "/v1/stats",
        "/v1/overview",
        "/v1/decisions",
        "/v1/policies",
        "/v1/live",
        "/",
        "/v1/models",
    ],
)
def test_head_is_answered_like_get_without_the_body(service, path):
    with served(service.app, http=bounded(service)) as address, httpx.Client(base_url=address, timeout=30) as client:
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert client.head(path).status_code == 200  # on the same connection
        if path != "/v1/live":
            got = client.get(path)
            assert set(head.headers) == set(got.headers)
            assert head.headers["content-type"] == got.headers["content-type"]
        assert client.head("/v1/guard").status_code == client.get("/v1/guard").status_code == 405


def test_metrics_count_requests_decisions_and_rows(service):
    for text in ("hello", "the other thing"):
        service.post("/v1/guard", {"prompt": text})
    service.get("/no/such/path/swordfish")
    exposition = service.get("/metrics").text
    assert service.metric("streamward_requests_total", endpoint="/v1/guard", status="200") == 2
    assert service.metric("streamward_requests_total", endpoint="other", status="404") == 1
    assert service.metric("streamward_audit_rows_total") == 2
    assert service.metric("streamward_tokens_total", endpoint="guard") == 2
    assert "streamward_decisions_total{" in exposition
    assert "swordfish" not in exposition


class BreakingGuard:
    """Fails in a way it should not."""

    def judge(self, conversation, policy):
        raise RuntimeError("swordfish")

    def close(self): ...


@pytest.mark.parametrize(("path", "body"), [("/v1/guard", {"prompt": "x"}), ("/v1/moderations", {"input": ["x", "y"]})])
def test_a_guard_that_breaks_blocks_and_shows(tmp_path, path, body, caplog):
    with open_service(tmp_path, guard=BreakingGuard()) as service:
        answer = service.post(path, body)
        assert answer.status_code == 200
        decisions = [answer.json()] if path == "/v1/guard" else answer.json()["results"]
        for found in decisions:
            decision = found.get("decision") or found["streamward"]["decision"]
            assert (decision["action"], decision["error"]) == (Action.BLOCK, "guard_failed")
            assert found.get("flagged", True) is True
        endpoint = path.rpartition("/")[2]
        assert service.metric("streamward_guard_errors_total", endpoint=endpoint, code="guard_failed") == len(decisions)
        chat = service.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
        assert chat.status_code == 502
        assert "swordfish" not in caplog.text + answer.text + chat.text


class SlowGuard:
    """Answers when it is let."""

    def __init__(self):
        self.is_let = threading.Event()

    def judge(self, conversation, policy):
        self.is_let.wait(10)
        raise RuntimeError

    def close(self):
        self.is_let.set()


def test_a_guard_that_does_not_answer_is_not_waited_for(tmp_path):
    guard = SlowGuard()
    with open_service(tmp_path, guard=guard, limits={"judge_timeout_s": 0.05}) as service:

        async def used(client: httpx.AsyncClient):
            return await client.post("/v1/guard", json={"prompt": "x"})

        answer = service.run(used)
        guard.is_let.set()
    assert answer.status_code == 503
    assert "did not answer" in answer.json()["error"]["message"]
    assert service.metric("streamward_rejected_total", reason="overloaded") == 1


def test_the_mapping_in_the_documents_is_the_one_in_force():
    page = (REPOSITORY / "docs/reference/service.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for category, keys in OPENAI_KEYS.items():
        (row,) = [line for line in rows if category.value in line.split("|")[1]]
        assert set(re.findall(r"`([a-z/-]+)`", row)) == set(keys)


def test_logs_hold_facts_and_no_text(service):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger("streamward")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        service.post("/v1/guard", {"prompt": "swordfish", "response": "swordfish"})
        service.post("/v1/guard", {"prompt": 5, "swordfish": 1})
    finally:
        root.removeHandler(handler)
        root.setLevel(logging.NOTSET)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {line["message"] for line in lines} >= {"decided", "request"}
    decided = next(line for line in lines if line["message"] == "decided")
    assert decided["tenant"] == "local"
    assert decided["duration_ms"] > 0
    assert "swordfish" not in stream.getvalue()


def test_an_exceptions_text_is_not_logged():
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        for is_json in (True, False):
            set_up_logging("info", is_json=is_json, stream=stream)
            try:
                raise ValueError("swordfish")
            except ValueError:
                logging.getLogger("x").exception("it broke", extra={"stream_id": "s"})
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert stream.getvalue().count("ValueError") == 2
    assert "swordfish" not in stream.getvalue()


def test_a_stopping_service_finishes_what_it_has_and_takes_no_more(service):
    async def used(client: httpx.AsyncClient):
        first = asyncio.ensure_future(client.post("/v1/guard", json={"prompt": "hello " * 300}))
        while not service.state.admission.num_in_flight:
            await asyncio.sleep(0)
        draining = asyncio.ensure_future(service.state.admission.drain())
        await asyncio.sleep(0)
        refused = await client.post("/v1/guard", json={"prompt": "x"})
        ready = await client.get("/ready")
        return (await first).status_code, refused, ready.status_code, await draining

    finished, refused, ready, is_drained = service.run(used)
    assert finished == 200
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert ready == 503
    assert is_drained is True


def test_settings_are_read_from_a_file_and_changed_one_by_one(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text('guard = "other"\n[limits]\nmax_in_flight = 5\n')
    config = ServeConfig.load(path, changes=["limits.max_in_flight=7", "listen.host=localhost", "auth.required=false"])
    assert (config.guard, config.limits.max_in_flight, config.auth.required) == ("other", 7, False)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("nonsense", "is not a setting"),
        ("limits.colour=red", "limits.colour"),
        ("limits.max_in_flight=0", "greater than 0"),
        ("limits.max_in_flight.x=1", "limits"),
        ("store.url=postgresql://me:swordfish@host/x", "url_env"),
    ],
)
def test_a_wrong_setting_is_named(change, problem):
    with pytest.raises(ConfigError, match=problem) as told:
        ServeConfig.load(None, changes=[change])
    assert "swordfish" not in str(told.value)


@pytest.mark.parametrize(
    "store",
    [
        {"url": "nonsense"},
        {"url": "mysql://x/y"},
        {"url": "sqlite:////nonexistent/folder/x.db"},
        {"url": "postgresql://127.0.0.1:1/x", "timeout_s": 1.0},
        {"url_env": "NOT_SET_ANYWHERE", "url": None},
    ],
)
def test_a_database_that_cannot_be_opened_is_told_before_serving(tmp_path, store):
    with pytest.raises(ConfigError), open_service(tmp_path, store=store):
        pass


def test_the_shipped_settings_are_valid_and_printed(capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for path in sorted(Path("configs").glob("serve*.toml")):
        assert main(["serve", str(path), "--print-config"]) == 0
        assert json.loads(capsys.readouterr().out)["guard"] == "stream-135m"


def test_keys_are_made_listed_and_revoked_on_the_command_line(tmp_path, capsys):
    database = ["--set", f"store.url=sqlite:///{tmp_path / 'x.sqlite3'}"]
    assert main(["keys", "create", "acme", "--policy", "loose", "--days", "1", *database]) == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("sw-")
    assert main(["keys", "list", *database]) == 0
    listed = capsys.readouterr().out
    key = json.loads(listed)
    assert (key["tenant"], key["policy"]) == ("acme", "loose")
    assert secret not in listed
    assert main(["keys", "revoke", key["id"], *database]) == 0
    assert main(["keys", "revoke", "unknown", *database]) == 2
    assert main(["keys", "create", "../x", *database]) == 2
    capsys.readouterr()
    for option in ("--policy", "--other-policy"):
        assert main(["keys", "create", "acme", option, "nosuch", *database]) == 2
        assert "there is no policy 'nosuch'; there are loose, strict" in capsys.readouterr().err
    assert main(["keys", "create", "acme", "--upstream", "nosuch", *database]) == 2
    assert "there is no upstream 'nosuch'; there are none" in capsys.readouterr().err
    (tmp_path / "mine.toml").write_text('name = "mine"\n')
    folder = ["--set", f"policies.folder={tmp_path}"]
    assert main(["keys", "create", "acme", "--policy", "mine", *database, *folder]) == 0
    assert main(["keys", "list", *database]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["keys", "usage", *database]) == 0


def test_the_log_is_exported_and_purged_on_the_command_line(tmp_path, capsys):
    with open_service(tmp_path) as service:
        service.post("/v1/guard", {"prompt": "hello"})
    database = ["--set", f"store.url=sqlite:///{tmp_path / 'service.sqlite3'}"]
    assert main(["audit", "export", *database]) == 0
    assert json.loads(capsys.readouterr().out)["endpoint"] == "guard"
    assert main(["audit", "export", "--out", str(tmp_path / "x.parquet"), *database]) == 0
    assert (tmp_path / "x.parquet").stat().st_size > 0
    assert main(["audit", "export", "--out", str(tmp_path / "x.csv"), *database]) == 2
    assert main(["audit", "purge", *database]) == 0
    assert capsys.readouterr().out.endswith("0 rows and 0 texts deleted\n")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture
def certificate(tmp_path):
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(chain)], check=True, capture_output=True)
    return chain, key


def wait_until_ready(process, url: str, context: ssl.SSLContext) -> None:
    with httpx.Client(verify=context) as client:
        while process.poll() is None:
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.HTTPError:
                process_wait(process)
    raise AssertionError(process.stderr.read())


def process_wait(process) -> None:
    """Let some time pass, or notice that the process ended."""
    try:
        process.wait(0.1)
    except subprocess.TimeoutExpired:
        return


def test_the_command_serves_over_tls_and_ends_when_told(tmp_path, certificate):
    from streamward.model.checkpoint import save_checkpoint
    from tests.moderation.guards import TEMPLATE, byte_tokenizer, random_model

    folder, port = tmp_path / "guard", free_port()
    save_checkpoint(random_model(), folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    changes = [
        f"guard={folder}",
        f"listen.port={port}",
        f"listen.tls_certificate={certificate[0]}",
        f"listen.tls_key={certificate[1]}",
        f"store.url=sqlite:///{tmp_path / 'x.sqlite3'}",
        "auth.required=false",
    ]
    options = [word for change in changes for word in ("--set", change)]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamward", "serve", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
    )
    context = ssl.create_default_context(cafile=str(certificate[0]))
    try:
        wait_until_ready(process, f"https://localhost:{port}/ready", context)
        with httpx.Client(verify=context) as client:
            answer = client.post(f"https://localhost:{port}/v1/guard", json={"prompt": "swordfish"})
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert any(line["message"] == "decided" for line in lines)
    (told,) = [line for line in lines if line["message"] == "serving"]
    assert (told["console"], told["policies"]) == (f"https://127.0.0.1:{port}/", "loose, strict")
    assert "swordfish" not in log


def test_the_default_database_is_in_the_users_state_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    config = settings(tmp_path, store={"url": None})
    assert config.store.secret_url().get_secret_value() == f"sqlite:///{tmp_path}/streamward/service.sqlite3"
