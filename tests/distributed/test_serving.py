"""A guard on a real Ray Serve: two replicas, one of them killed under load."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from streamward.distributed.config import ApplicationArguments, ReplicaSetConfig
from streamward.errors import ConfigError
from streamward.loading import load
from tests.distributed.checkpoints import tiny_checkpoint
from tests.distributed.processes import start, wait_until
from tests.distributed.replica_sets import assert_same
from tests.gateway.scripted import DONE, Script, ask, call, chat, delta, gateway, reasons_in, texts_in
from tests.moderation.sharp_policy import POLICY, PROMPT, TEXT

pytest.importorskip("ray", reason="needs the extra ray: make test-ray")
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore:::ray")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("guard"))


@pytest.fixture(scope="module")
def local(folder):
    with load(folder, policy=POLICY, dtype=torch.float32) as moderator:
        yield moderator


@pytest.fixture(scope="module")
def remote(folder):
    from streamward.distributed.serving import open_moderator

    replica_set = ReplicaSetConfig(min_replicas=2, max_replicas=2, cpus=0.5, dtype="float32")
    arguments = ApplicationArguments(guard=str(folder), ray=replica_set)
    with open_moderator(arguments, policy=POLICY, max_chars=100_000, max_workers=16) as moderator:
        yield moderator


def driver_of(moderator):
    return moderator._guard._scorer


def replicas(moderator):
    """Name and process of each replica that answers."""
    handle = driver_of(moderator)._replica_set.handle
    found = {}
    while len(found) < 2:
        name, pid = handle.pid.remote().result(timeout_s=60)
        found[name] = pid
    return found


def names_of(moderator):
    """Names of the replicas that answered some calls."""
    handle = driver_of(moderator)._replica_set.handle
    return {handle.pid.remote().result(timeout_s=60)[0] for _ in range(6)}


def placed(moderator, stream_number=-1):
    return list(driver_of(moderator)._streams.values())[stream_number].replica


def test_whole_texts_are_judged_as_here(remote, local):
    for start_at in range(0, 40, 10):
        found = remote.moderate(prompt=PROMPT, response=TEXT[start_at:])
        expected = local.moderate(prompt=PROMPT, response=TEXT[start_at:])
        assert_same(found.prompt.verdicts, expected.prompt.verdicts)
        assert_same(found.response.verdicts, expected.response.verdicts)


def test_a_service_may_use_an_application_that_runs_already(remote, local, folder):
    from streamward.distributed.serving import open_moderator

    arguments = ApplicationArguments(guard=str(folder), ray=ReplicaSetConfig(address="auto", deploy=False))
    with open_moderator(arguments, policy=POLICY, max_chars=1000, max_workers=1) as other:
        found = other.moderate(prompt=PROMPT)
    assert_same(found.prompt.verdicts, local.moderate(prompt=PROMPT).prompt.verdicts)
    assert remote.moderate(prompt=PROMPT).prompt is not None  # it was not taken away


def test_an_application_that_does_not_run_is_refused(remote, folder):
    from streamward.distributed.serving import open_moderator

    replica_set = ReplicaSetConfig(address="auto", deploy=False, application="other")
    with pytest.raises(ConfigError, match="no Ray Serve application 'other'"):
        open_moderator(
            ApplicationArguments(guard=str(folder), ray=replica_set), policy=POLICY, max_chars=1000, max_workers=1
        )


def test_a_stream_stays_with_its_replica(remote):
    before = driver_of(remote).num_handovers
    with remote.stream(prompt=PROMPT) as stream:
        names = set()
        for at in range(0, 60, 3):
            stream.feed(TEXT[at : at + 3])
            names.add(placed(remote))
    assert len(names) == 1
    assert driver_of(remote).num_handovers == before


def test_a_replica_killed_in_the_middle_of_streams_changes_no_verdict(remote, local):
    texts = [(TEXT * 2)[n : n + 40] for n in range(0, 64, 8)]
    half = threading.Barrier(len(texts) + 1)
    before = driver_of(remote).num_handovers

    def judge(text):
        with remote.stream(prompt=PROMPT) as stream:
            for at in range(0, len(text), 2):
                if at == len(text) // 2:
                    half.wait()  # all are under way, and go on while the replica dies
                stream.feed(text[at : at + 2])
            return stream.finish()

    def judge_here(text):
        with local.stream(prompt=PROMPT) as stream:
            for at in range(0, len(text), 2):
                stream.feed(text[at : at + 2])
            return stream.finish()

    with ThreadPoolExecutor(len(texts)) as pool:
        waiting = [pool.submit(judge, text) for text in texts]
        half.wait()
        os.kill(replicas(remote)[placed(remote)], signal.SIGKILL)
        found = [each.result() for each in waiting]
    for text, result in zip(texts, found, strict=True):
        expected = judge_here(text)
        assert result.decision == expected.decision
        assert_same(result.response.verdicts, expected.response.verdicts)
    assert driver_of(remote).num_handovers > before
    assert driver_of(remote).num_streams == 0


def test_the_gateway_shows_nothing_unjudged_while_a_replica_is_killed(remote, local):
    texts = [(TEXT * 3)[n : n + 6 + n % 9 * 5] for n in range(24)]
    victim = max(replicas(remote).values())

    def answer(number):
        if number == 10:
            os.kill(victim, signal.SIGKILL)
        words = [texts[number][at : at + 3] for at in range(0, len(texts[number]), 3)]
        body = [delta(content=word) for word in words] + [delta(reason="stop"), DONE]
        gate = gateway(
            Script(*body),
            open_guard=lambda messages, policy: remote.with_policy(policy).astream(messages=messages or None),
        )
        return ask(gate, call(chat(content=PROMPT), policy=POLICY))[1]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, range(len(texts))))
    num_stopped = 0
    for text, data in zip(texts, answers, strict=True):
        shown, reasons = texts_in(data).get((0, "content"), ""), reasons_in(data)
        judged = local.moderate(prompt=PROMPT, response=text).response
        assert text.startswith(shown)
        if judged.first_flagged_char is None:
            assert shown == text or reasons == {0: "content_filter"}  # a word cut in two may look worse than whole
        else:
            num_stopped += 1
            assert reasons == {0: "content_filter"}
            assert len(shown) < judged.verdicts[judged.first_flagged_token].span.end
    assert 0 < num_stopped < len(texts)


def test_the_service_starts_answers_and_stops(tmp_path, folder, remote):
    """In a Ray of its own, beside the other."""
    settings = tmp_path / "serve.toml"
    settings.write_text(
        f"""
guard = {json.dumps(str(folder))}
[listen]
port = 18971
[auth]
required = false
[store]
url = "sqlite:///{tmp_path / "service.sqlite3"}"
[ray]
max_replicas = 1
cpus = 0.5
"""
    )
    log = tmp_path / "log.txt"
    process = start(["serve", str(settings), "--ray"], log=log)

    def is_ready():
        try:
            with urllib.request.urlopen("http://127.0.0.1:18971/ready", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        wait_until(is_ready, process)
        body = json.dumps({"prompt": PROMPT, "response": TEXT}).encode()
        request = urllib.request.Request("http://127.0.0.1:18971/v1/guard", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["response"]["risk_level"] in ("Safe", "Controversial", "Unsafe")
    finally:
        process.terminate()
        code = process.wait(120)
    assert code == 0, log.read_text()
    assert TEXT[:9] not in log.read_text()


def test_a_replica_is_added_when_many_reads_are_under_way(remote, folder):
    from streamward.distributed.serving import open_moderator

    replica_set = ReplicaSetConfig(
        address="auto", application="growing", max_replicas=2, cpus=0.1, target_reads=1, upscale_delay_s=0
    )
    arguments = ApplicationArguments(guard=str(folder), ray=replica_set)
    with open_moderator(arguments, policy=POLICY, max_chars=10**6, max_workers=16) as moderator:
        is_enough = threading.Event()

        def judge():
            while not is_enough.is_set():
                moderator.moderate(prompt=PROMPT, response=TEXT * 20)

        with ThreadPoolExecutor(8) as pool:
            for _ in range(8):
                pool.submit(judge)
            try:
                until = time.monotonic() + 120
                while len(names_of(moderator)) < 2:
                    assert time.monotonic() < until, "no replica was added"
            finally:
                is_enough.set()


def test_a_guard_that_does_not_load_ends_with_one_line(tmp_path, folder):
    log = subprocess.run(
        [sys.executable, "-m", "streamward", "serve", "--ray", "--set", "ray.cpus=1000"],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert log.returncode == 2
    assert "the first replicas need 1000 cores" in log.stderr
