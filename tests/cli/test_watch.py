"""`streamward watch`: what leaves was judged, and nothing else leaves."""

import os
import sys
import threading

import pytest

from streamward.cli import watch
from streamward.cli.main import main
from streamward.detectors.config import DetectorConfig
from streamward.errors import UpstreamError
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.schema import Action
from tests.moderation.guards import stream_guard

TEXT = "the thing about émigrés, 中文字符 and 👩‍💻: rolling in the deep; العربية and all the others\n" * 3
OPEN = {"thresholds": {"unsafe": 1.0, "controversial": 1.0}}
SHUT = {"thresholds": {"unsafe": 0.0, "controversial": 0.0}}
LINE = {"thresholds": {"unsafe": 0.9, "controversial": 1.0}, "consecutive_tokens": 2}


class Input:
    """Standard input that arrives in the pieces given."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._reader, writer = os.pipe()

        def write() -> None:
            try:
                for piece in pieces:
                    os.write(writer, piece)
            except BrokenPipeError:
                pass
            finally:
                os.close(writer)

        threading.Thread(target=write, daemon=True).start()

    def fileno(self) -> int:
        return self._reader


@pytest.fixture
def run(monkeypatch, capsysbinary):
    def call(policy: Policy, data: bytes, *, size: int = 7, arguments: tuple[str, ...] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr(watch, "load", lambda _: Moderator(stream_guard(), policy=policy))
        monkeypatch.setattr(sys, "stdin", Input([data[start : start + size] for start in range(0, len(data), size)]))
        code = main(["watch", *arguments])
        captured = capsysbinary.readouterr()
        return code, captured.out.decode(), captured.err.decode()

    return call


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_harmless_stream_passes_unchanged(run, size):
    code, out, err = run(Policy(name="open", response=OPEN), TEXT.encode(), size=size)
    assert (code, out, err) == (0, TEXT, "")


def test_what_is_no_utf8_passes_as_replacement_characters(run):
    code, out, _ = run(Policy(name="open", response=OPEN), b"caf\xe9 \xf0\x9f", size=2)
    assert (code, out) == (0, "caf\ufffd \ufffd")


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_flagged_stream_is_cut_before_the_flagged_tokens(run, size):
    policy = Policy(name="line", response=LINE)
    whole = Moderator(stream_guard(), policy=policy).moderate(response=TEXT)
    assert whole.decision.action is Action.BLOCK
    position = whole.decision.position
    start = whole.response.verdicts[position - 1].span.start  # the first of the two in a row
    code, out, err = run(policy, TEXT.encode(), size=size)
    assert code == 3
    assert out == TEXT[:start]
    assert f"at token {position}" in err
    assert "thresholds: Unsafe 0.90" in err


def test_a_prompt_over_the_threshold_stops_before_anything_is_read(run):
    policy = Policy(name="shut", prompt=SHUT, response=OPEN)
    code, out, err = run(policy, TEXT.encode(), arguments=("--prompt", "hello"))
    assert (code, out) == (3, "")
    assert "before the answer began" in err


def test_a_replacement_takes_the_place_of_the_rest(run):
    policy = Policy(name="kind", response={**SHUT, "unsafe": "replace"}, replacement="Let us talk about bread.")
    code, out, _ = run(policy, TEXT.encode())
    assert (code, out) == (3, "Let us talk about bread.\n")


def test_a_single_suspicious_token_at_the_end_is_released_with_the_end(run):
    policy = Policy(name="line", response={**SHUT, "consecutive_tokens": 50})
    text = "the thing"
    code, out, _ = run(policy, text.encode())
    assert (code, out) == (3, "")  # shorter than the run, so all of it counts


def test_a_guard_that_fails_releases_nothing_more(run, monkeypatch):
    def fail(self, piece):
        raise UpstreamError("gone")

    monkeypatch.setattr("streamward.moderation.guard_stream.GuardStream.feed", fail)
    code, out, err = run(Policy(name="open", response=OPEN), TEXT.encode())
    assert (code, out) == (1, "")
    assert err == "streamward: gone\n"


@pytest.mark.parametrize("arguments", [(), ("--prompt", "hello")])
@pytest.mark.parametrize("data", [b"", b" \n\t"])
def test_a_stream_without_text_is_bad_input(run, data, arguments):
    policy = Policy(name="open", prompt=OPEN, response=OPEN)
    code, out, err = run(policy, data, arguments=arguments)
    assert (code, out) == (2, data.decode())
    assert "nothing to judge" in err


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_what_detectors_find_is_masked_whatever_the_pieces(run, size):
    policy = Policy(name="open", response=OPEN, detectors=(DetectorConfig(type="email"),))
    code, out, err = run(policy, b"Write to jo@example.com, not to me.", size=size)
    assert (code, out, err) == (0, "Write to [EMAIL], not to me.", "")


def test_a_listed_word_ends_the_stream_before_it(run):
    word = DetectorConfig(type="words", id="names", words=("zeus",), action="block")
    code, out, err = run(Policy(name="open", response=OPEN, detectors=(word,)), b"Hail Zeus and all the others")
    assert (code, out) == (3, "Hail ")
    assert "stopped after 5 characters: the detector names blocks" in err
