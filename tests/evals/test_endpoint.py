"""An endpoint that times out, answers garbage or dies half-way costs retries and marked rows, never a wrong score."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from streamward.evals.guard_choice import EndpointOptions, open_guard
from streamward.evals.report import guard_report
from streamward.evals.runner import run_guard
from streamward.evals.sets import EvalSet
from streamward.policy import STRICT
from streamward.schema import Category, RiskLevel, Side
from tests.evals.rows import SAFE, UNSAFE, row

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any], int], None]
FAST = {"timeout_s": 2.0, "max_retries": 2, "concurrency": 4}


def reply(handler: BaseHTTPRequestHandler, values: object, *, status: int = 200, **headers: str) -> None:
    data = values if isinstance(values, bytes) else json.dumps(values).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def chat(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}]}


def judged(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Say what is right: odd texts are unsafe."""
    number = int(body["messages"][-1]["content"].split()[-1])
    reply(handler, chat("Safety: Unsafe\nCategories: Violent" if number % 2 else "Safety: Safe\nCategories: None"))


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """Serve on the loopback; the answer is told how many requests came before."""
    count = iter(range(10**6))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = next(count)
            answer(self, body, number)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that gave up

    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/v1#guard"
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    async def at_once(seconds: float) -> None:
        pass

    monkeypatch.setattr("streamward.evals.endpoint.asyncio.sleep", at_once)


def some_rows(count: int = 20) -> EvalSet:
    return EvalSet("own", Side.PROMPT, tuple(row(n, UNSAFE if n % 2 else SAFE) for n in range(count)))


def evaluate(url: str, folder, *, rows: int = 20, **options: Any):
    guard = open_guard(url, policy=STRICT, endpoint=EndpointOptions(**{**FAST, **options}))
    try:
        return run_guard(guard, [some_rows(rows)], cache=folder, command="c", suite="all")
    finally:
        guard.close()


def strict(run):
    return guard_report(run).sets[0].points.get("strict")


def test_a_healthy_endpoint_is_scored(tmp_path):
    with server(lambda handler, body, number: judged(handler, body)) as url:
        run = evaluate(url, tmp_path)
    point = strict(run)
    assert (point.true_positives, point.true_negatives) == (10, 10)
    assert run.sets[0].predictions[1].category is Category.VIOLENT
    assert run.cost["num_errors"] == 0


@pytest.mark.parametrize(
    "trouble",
    [
        lambda handler: reply(handler, b"<html>bad gateway</html>", status=502),
        lambda handler: reply(handler, {}, status=429, Retry_After="0"),
        lambda handler: reply(handler, b"\xff\xfe not json"),
        lambda handler: reply(handler, chat("I would rather not say.")),
        lambda handler: reply(handler, chat("")),
        lambda handler: reply(handler, chat("Safety: Safe or Unsafe")),
        lambda handler: reply(handler, {"choices": []}),
        lambda handler: reply(handler, [1, 2, 3]),
        lambda handler: handler.connection.close(),
        lambda handler: (
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"),
            handler.connection.close(),
        ),
    ],
    ids=["502", "429", "no-utf8", "chatter", "empty", "both", "no-choice", "a-list", "closed", "cut-off"],
)
def test_trouble_that_passes_costs_tries_and_no_rows(tmp_path, trouble):
    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        if number % 3 == 0:
            trouble(handler)
        else:
            judged(handler, body)

    with server(answer) as url:
        run = evaluate(url, tmp_path, concurrency=1)  # one after the other: no row fails three times
    point = strict(run)
    assert (point.true_positives, point.true_negatives) == (10, 10)


@pytest.mark.parametrize("text", ["It depends.", "Safety: Safe or Unsafe", "", "safe"])
def test_garbage_for_ever_marks_rows_and_is_no_score(tmp_path, text):
    with server(lambda handler, body, number: reply(handler, chat(text))) as url:
        run = evaluate(url, tmp_path)
    assert {each.error for each in run.sets[0].predictions} == {"upstream_failed"}
    report = guard_report(run)
    assert report.sets[0].points == {}
    assert report.sets[0].errors == 20
    assert set(report.sets[0].decisions.strict) == {"!"}


def test_one_text_that_is_never_answered_is_the_only_row_marked(tmp_path):
    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        if body["messages"][-1]["content"] == "text 7":
            reply(handler, b"no")
        else:
            judged(handler, body)

    with server(answer) as url:
        run = evaluate(url, tmp_path)
    assert [each.row_id for each in run.sets[0].predictions if each.error] == ["7"]
    point = strict(run)
    assert (point.true_positives, point.false_negatives, point.true_negatives) == (9, 0, 10)


def test_an_endpoint_that_hangs_is_given_up_on(tmp_path):
    release = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        if body["messages"][-1]["content"] == "text 3":
            release.wait(20)
        else:
            judged(handler, body)

    with server(answer) as url:
        run = evaluate(url, tmp_path, timeout_s=0.3, max_retries=1)
        release.set()
    assert [each.row_id for each in run.sets[0].predictions if each.error] == ["3"]


def test_an_endpoint_that_dies_half_way_leaves_marked_rows_and_is_resumed(tmp_path):
    def dying(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        if number < 32:
            judged(handler, body)
        else:
            handler.connection.close()

    with server(dying) as url:
        run = evaluate(url, tmp_path, rows=64, concurrency=4)
        errors = sum(each.error is not None for each in run.sets[0].predictions)
        assert 0 < errors <= 32
        point = strict(run)
        assert (point.false_positives, point.false_negatives) == (0, 0)
    port = httpx.URL(url).port
    again = []

    def healthy(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        again.append(body["messages"][-1]["content"])
        judged(handler, body)

    with server(healthy) as other:
        moved = open_guard(other, policy=STRICT, endpoint=EndpointOptions(**FAST))
        described = {
            **moved.describe(),
            "settings": {**moved.describe()["settings"], "base_url": f"http://127.0.0.1:{port}/v1"},
        }
        moved.describe = lambda: described  # the same guard, back at its address
        run = run_guard(moved, [some_rows(64)], cache=tmp_path, command="c", suite="all")
        moved.close()
    assert not any(each.error for each in run.sets[0].predictions)
    assert (strict(run).true_positives, strict(run).true_negatives) == (32, 32)
    assert len(set(again)) < 64 + 1


def test_a_moderations_endpoint_is_scored_with_its_scores(tmp_path):
    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        risk = 0.9 if int(body["input"].split()[-1]) % 2 else 0.2
        scores = {"violence": risk, "hate": 0.1}
        result = {"flagged": risk > 0.5, "categories": {"violence": risk > 0.5}, "category_scores": scores}
        reply(handler, {"results": [result]})

    with server(answer) as url:
        run = evaluate(url, tmp_path, format_name="moderations")
    found = run.sets[0].predictions[1]
    assert found.probabilities is not None
    assert (found.risk_level, found.category) == (RiskLevel.UNSAFE, Category.VIOLENT)
    assert found.probabilities[RiskLevel.UNSAFE] == pytest.approx(0.9)
    assert guard_report(run).sets[0].ranking.auroc.value == 1.0


def test_a_key_is_sent_and_never_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GUARD_KEY", "sk-very-secret")
    seen = []

    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        seen.append(handler.headers["Authorization"])
        judged(handler, body)

    with server(answer) as url:
        run = evaluate(url, tmp_path, key_env="GUARD_KEY")
    assert set(seen) == {"Bearer sk-very-secret"}
    assert "very-secret" not in guard_report(run).model_dump_json()
    assert all("very-secret" not in path.read_text() for path in tmp_path.rglob("*.jsonl"))
