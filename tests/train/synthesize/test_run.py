"""`streamward train synthesize` from a config to rows and a report, with and without a model that writes."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamward.data.jsonl import read_samples
from streamward.errors import ConfigError, UpstreamError
from streamward.generative.chat_endpoint import ChatEndpoint
from streamward.generative.config import RemoteConfig
from streamward.schema import RiskLevel
from streamward.train.synthesize.run import run
from tests.train.synthesize.lexicons import SHIPPED

PAIR = json.dumps({"harmful": "How do I steal a tram?", "harmless": "How do I ride a tram?"})


class Endpoint(BaseHTTPRequestHandler):
    """Answers what the server's `answers` function says; counts the calls."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, text = self.server.answer(body["messages"][-1]["content"])  # type: ignore[attr-defined]  # set below
        content = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    found: Any = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    found.calls = []
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def config(folder: Path, rows: str, *, more: str = "") -> Path:
    path = folder / "run.toml"
    path.write_text(
        f'lexicon = "{SHIPPED.as_posix()}"\noutput = "{(folder / "out.jsonl.gz").as_posix()}"\n{rows}\n{more}',
        encoding="utf-8",
    )
    return path


def writer(server: Any, **values: int) -> str:
    lines = "\n".join(f"{name} = {value}" for name, value in values.items())
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    return f'[writer]\nmax_parallel = 1\n{lines}\n[writer.endpoint]\nbase_url = "{url}"\nmodel = "m"\nbackoff_s = 0\n'


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out.report.json").read_text(encoding="utf-8"))
    return found


def test_rows_come_in_the_wanted_numbers_and_without_repeats(tmp_path: Path) -> None:
    path = run(config(tmp_path, "[rows.en]\nrequest = 200\ndialogue = 100\n[rows.other]\nrequest = 20\n"))
    rows = list(read_samples(path))
    assert report(tmp_path)["families"] == {"request": 200 + 19 * 20, "dialogue": 100}
    assert len({(row.prompt.lower(), row.response) for row in rows}) == len(rows)
    assert len({row.id for row in rows}) == len(rows)


def test_the_same_config_gives_the_same_bytes(tmp_path: Path) -> None:
    path = config(tmp_path, "[rows.en]\nrequest = 50\nturns = 20\n[rows.zh]\ndialogue = 20\n")
    assert run(path).read_bytes() == run(path).read_bytes()


def test_a_family_that_runs_dry_ends_and_says_so(tmp_path: Path) -> None:
    run(config(tmp_path, "[rows.en]\nexchange = 40\n[rows.uk]\nreasoning = 10\n"))
    assert report(tmp_path)["families"] == {"exchange": 40}
    assert report(tmp_path)["missing"] == {"uk reasoning": 10}


@pytest.mark.parametrize(
    ("rows", "message"), [("[rows.xx]\nrequest = 1", "xx"), ("[rows.en]\npoem = 1", "poem"), ("", "rows")]
)
def test_unknown_languages_and_families_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(config(tmp_path, rows))


def test_a_model_writes_pairs_and_answers(tmp_path: Path, server: Any) -> None:
    server.answer = lambda asked: (
        200,
        f"Sure:\n{PAIR}\n" if "JSON" in asked else "Take a slow walk in the park first.",
    )
    path = run(config(tmp_path, "[rows]", more=writer(server, requests=2, answers=5)))
    rows = list(read_samples(path))
    labels = {row.prompt: row.prompt_label for row in rows if row.response is None}
    assert labels == {"How do I steal a tram?": RiskLevel.UNSAFE, "How do I ride a tram?": RiskLevel.SAFE}
    assert sum(row.response is not None for row in rows) == 5
    assert report(tmp_path)["writer"] == {"used": 7}


def test_refusals_of_the_model_and_nonsense_are_counted_and_not_used(tmp_path: Path, server: Any) -> None:
    answers = iter(["I'm sorry, but I can't help with that.", "lorem ipsum", PAIR])
    server.answer = lambda asked: (200, next(answers))
    path = run(config(tmp_path, "[rows]", more=writer(server, requests=3)))
    assert report(tmp_path)["writer"] == {"refused": 1, "unreadable": 1, "used": 1}
    assert len(list(read_samples(path))) == 2


def test_what_was_written_is_not_asked_for_again(tmp_path: Path, server: Any) -> None:
    statuses = iter([200, 400, 200, 200])
    asked: list[str] = []

    def answer(text: str) -> tuple[int, str]:
        asked.append(text)
        return next(statuses), PAIR

    server.answer = answer
    path = config(tmp_path, "[rows]", more=writer(server, requests=3))
    run(path)
    assert report(tmp_path)["writer"] == {"failed": 1, "used": 2}
    run(path)
    assert report(tmp_path)["writer"] == {"used": 3}
    assert len(asked) == 4
    assert len(set(asked)) == 3


def test_a_model_that_never_answers_is_an_error(tmp_path: Path, server: Any) -> None:
    server.answer = lambda asked: (404, "")
    with pytest.raises(UpstreamError, match="all of 2"):
        run(config(tmp_path, "[rows]", more=writer(server, requests=2)))


def chat(*outcomes: httpx.Response | Exception, slept: list[float]) -> ChatEndpoint:
    left = list(outcomes)

    def handle(request: httpx.Request) -> httpx.Response:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    config = RemoteConfig.parse({"base_url": "http://writer.test/v1", "model": "m"}, source="test")
    transport = httpx.MockTransport(handle)
    return ChatEndpoint(config, name="the endpoint", temperature=1.0, transport=transport, sleep=slept.append)


def completion(content: object) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"content": content}}]})


def test_a_busy_endpoint_is_asked_again_when_it_says() -> None:
    slept: list[float] = []
    busy = httpx.Response(429, headers={"Retry-After": "7"})
    assert chat(busy, httpx.ConnectError("lost"), completion("text"), slept=slept).write([]) == "text"
    assert slept == [7.0, 1.0]


@pytest.mark.parametrize("answer", [httpx.Response(401), completion(None), httpx.Response(200, text="<html>")])
def test_an_answer_without_text_is_an_error_at_once(answer: httpx.Response) -> None:
    slept: list[float] = []
    with pytest.raises(UpstreamError):
        chat(answer, slept=slept).write([])
    assert slept == []
