"""The examples that need a service run against one."""

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from streamward.assistant.app import create_app
from tests import loopback
from tests.assistant.assistants import tiny_assistant
from tests.server.marked_guard import marked_guard
from tests.server.services import open_service, served

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def url(tmp_path):
    with loopback.served(create_app(tiny_assistant())) as assistant:
        upstreams = {"assistant": {"base_url": f"{assistant}/v1"}}
        with (
            open_service(tmp_path, guard=marked_guard(), upstreams=upstreams) as service,
            served(service.app) as address,
        ):
            yield address


def test_the_openai_client_is_answered(url, capsys):
    runpy.run_path(str(EXAMPLES / "openai_client.py"))["main"](url)
    shown = capsys.readouterr().out
    assert shown.count("fine") == 2
    assert "[length]" in shown or "[stop]" in shown or "[content_filter]" in shown


def test_a_response_is_judged_while_it_is_written(url, capsys):
    example = runpy.run_path(str(EXAMPLES / "judge_your_stream.py"))
    example["main"].__globals__["ANSWER"] = "Talk to your neighbour. ## Nothing more."
    example["main"](url)
    assert capsys.readouterr().out == "Talk to your neighbour. \n[block: Unsafe, Violent]\n"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_is_enough(url):
    done = subprocess.run(["sh", EXAMPLES / "service.sh", url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert '"results":' in done.stdout
    assert '"decision":' in done.stdout
    assert "data: [DONE]" in done.stdout
