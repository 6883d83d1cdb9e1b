"""The examples in JavaScript run with node against a gateway whose upstream is scripted."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from tests import loopback
from tests.server.marked_guard import marked_guard
from tests.server.services import open_service, served

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples" / "integrations"
PAGE = ROOT / "docs" / "how-to" / "integrate.md"
ADDRESS = "http://127.0.0.1:8000"
"""Of the service, in the examples."""
MODULES = Path(os.environ.get("STREAMWARD_NODE_MODULES", ROOT / ".venv-integrations" / "node_modules"))

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
]
needs_the_sdk = pytest.mark.skipif(
    not (MODULES / "ai").exists(), reason="the AI SDK is not there; make test-integrations"
)


def scripted(*pieces: str) -> FastAPI:
    """A model that says the pieces, in OpenAI's format."""
    app = FastAPI()

    def events() -> Iterator[str]:
        for index, piece in enumerate([*pieces, ""]):
            is_last = index == len(pieces)
            choice = {
                "index": 0,
                "delta": {} if is_last else {"content": piece},
                "finish_reason": "stop" if is_last else None,
            }
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    @app.post("/v1/chat/completions")
    def complete() -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    return app


@pytest.fixture
def run(tmp_path):
    """Run an example: its question and what the model says give what is shown."""

    def shown(example: str, question: str, *pieces: str, code: str | None = None) -> str:
        written = code or (EXAMPLES / example).read_text("utf-8")
        if MODULES.exists() and not (tmp_path / "node_modules").exists():
            (tmp_path / "node_modules").symlink_to(MODULES)
        with loopback.served(scripted(*pieces)) as upstream:
            upstreams = {"assistant": {"base_url": f"{upstream}/v1"}}
            with (
                open_service(tmp_path, guard=marked_guard(), upstreams=upstreams) as service,
                served(service.app) as url,
            ):
                (tmp_path / example).write_text(written.replace(ADDRESS, url))
                command = ["node", str(tmp_path / example), question]
                done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return shown


def test_fetch_shows_a_whole_answer(run):
    assert run("fetch.mjs", "bread?", "Take ", "flour.") == "Take flour.\n[stop]\n"


def test_fetch_shows_where_the_guard_cuts(run):
    assert run("fetch.mjs", "bread?", "fine ", "##", " more") == "fine \n[content_filter]\n"


def test_fetch_shows_that_a_prompt_is_refused(run):
    assert run("fetch.mjs", "# please", "fine") == "[refused with 400: content_filter]\n"


@needs_the_sdk
def test_the_ai_sdk_shows_a_whole_answer(run):
    assert run("ai-sdk.mjs", "bread?", "Take ", "flour.") == "Take flour.\n[stop]\n"


@needs_the_sdk
def test_the_ai_sdk_shows_where_the_guard_cuts(run):
    assert run("ai-sdk.mjs", "bread?", "fine ", "##", " more") == "fine \n[content-filter]\n"


@needs_the_sdk
def test_the_ai_sdk_shows_that_a_prompt_is_refused(run):
    assert run("ai-sdk.mjs", "# please", "fine").splitlines()[0] == "[refused with 400: content_filter]"


@needs_the_sdk
def test_the_code_of_the_page_runs(run):
    (code,) = re.findall(r"^```javascript\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    assert run("page.mjs", "", "Take ", "flour.", code=code) == "Take flour."
