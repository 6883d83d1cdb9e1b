"""A service that is told to stop ends within `drain_s` and a second, whatever runs in it."""

import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.server.stuck import DRAIN_S
from tests.server.test_disconnects import send
from tests.server.test_operations import free_port, process_wait

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = DRAIN_S + 1.0
PATIENCE_S = 60.0
MEGABYTE = "The cat sat on the mat. " * 41_666


@contextmanager
def running(folder: Path, what: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.server.stuck", str(folder), str(port), what],
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                process_wait(process)
        yield process, url
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def seconds_to_stop(process: "subprocess.Popen[str]", sig: signal.Signals = signal.SIGTERM) -> float:
    start = time.monotonic()
    process.send_signal(sig)
    process.wait(60)
    return time.monotonic() - start


def wait_for(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], PATIENCE_S)[0], f"the service did not say {line!r}"
    assert process.stdout.readline().strip() == line


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_megabyte_that_was_given_up_does_not_keep_the_process(tmp_path, sig: signal.Signals) -> None:
    with running(tmp_path, "text") as (process, url), send(url, "/v1/guard", {"response": MEGABYTE}):
        wait_for(process, "stepping")
        assert seconds_to_stop(process, sig) <= LIMIT_S


def test_answers_that_finish_in_time_are_whole_and_the_process_ends_with_them(tmp_path) -> None:
    with running(tmp_path, "text") as (process, url), send(url, "/v1/guard", {"prompt": "hello " * 100}) as client:
        wait_for(process, "stepping")
        seconds = seconds_to_stop(process)
        client.settimeout(10)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert b"HTTP/1.1 200" in answer
        assert answer.endswith(b"}")
        assert seconds <= LIMIT_S
        assert process.returncode == 0


@pytest.mark.parametrize("what", ["step", "audit", "keys"])
def test_what_hangs_does_not_keep_the_process(tmp_path, what: str) -> None:
    key = "sw-x" if what == "keys" else ""  # a key that is wrong is refused before anything else hangs
    with running(tmp_path, what) as (process, url), send(url, "/v1/guard", {"prompt": "hello"}, key=key):
        wait_for(process, "hanging")
        assert seconds_to_stop(process) <= LIMIT_S


def test_a_request_that_a_stop_cuts_short_is_told_so(tmp_path) -> None:
    with running(tmp_path, "step") as (process, url), send(url, "/v1/guard", {"prompt": "hello"}) as client:
        wait_for(process, "hanging")
        seconds = seconds_to_stop(process)
        client.settimeout(10)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"code":"overloaded"' in answer
        assert seconds <= LIMIT_S


def test_pages_and_websockets_that_are_open_do_not_keep_the_process(tmp_path) -> None:
    with (
        running(tmp_path, "nothing") as (process, url),
        httpx.stream("GET", f"{url}/v1/live", timeout=60) as watching,
        connect(url.replace("http://", "ws://") + "/v1/streams") as fed,
    ):
        next(watching.iter_raw())
        fed.send('{"type": "open", "prompt": "hello"}')
        fed.recv(30)
        assert seconds_to_stop(process) <= LIMIT_S
