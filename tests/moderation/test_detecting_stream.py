"""Detectors over a response that is judged while it grows: what is found, what may be shown, and what follows."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamward.detectors.config import DetectorConfig
from streamward.detectors.detectors import Detectors
from streamward.detectors.finding import DetectorAction
from streamward.detectors.masker import mask_text
from streamward.errors import InputError
from streamward.moderation.conversation import Conversation
from streamward.moderation.detecting_stream import DetectingStream, with_detectors
from streamward.moderation.guard_stream import GuardStream
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.schema import Action, Message, Role, Side
from tests.detectors.planted import cut, detectors, planted_texts
from tests.gateway.scripted import TOKENIZER
from tests.intervene.scripted_model import HashGuard
from tests.moderation.guards import stream_guard

SEAMS = settings(
    max_examples=int(os.environ.get("STREAMWARD_SEAM_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=8) | st.just([1])
ALL = detectors()
EMAIL = DetectorConfig(type="email")
STOP = DetectorConfig(type="words", id="stop", words=("zeus",), action=DetectorAction.BLOCK)
MAIL = "Write to jo@example.com today, or to me."


def opened(*configs: DetectorConfig) -> DetectingStream:
    return DetectingStream(HashGuard().stream(), Detectors.compile(configs))


def shown_of(stream: DetectingStream, pieces: list[str | bytes]) -> list[str]:
    """Feed pieces, and return what may be shown after each and at the end."""
    shown, at = [], 0
    for piece in [*pieces, None]:
        stream.finish() if piece is None else stream.feed(piece)
        end = stream.releasable_chars
        shown.append(stream.masked(at, end) or "")
        at = end
    return shown


@SEAMS
@given(text=planted_texts(), sizes=SIZES)
def test_whatever_the_cut_text_and_findings_are_those_of_the_whole(text: str, sizes: list[int]) -> None:
    text = text.replace("#", "")
    stream = DetectingStream(HashGuard().stream(), ALL)
    shown = shown_of(stream, list(cut(text, sizes)))
    whole = mask_text(ALL, text)
    assert "".join(shown) == whole.text
    assert tuple(sorted(stream.findings, key=repr)) == tuple(sorted(whole.findings, key=repr))
    assert not any(char.isdigit() for part in shown for char in part)


def test_text_waits_until_guard_and_detectors_have_decided():
    stream = opened(EMAIL)
    assert shown_of(stream, ["Write to jo@exa", "mple.com today", " or # tomorrow"]) == [
        "Write to ",
        "[EMAIL] ",
        "today or # ",
        "tomorrow",
    ]
    found = stream.findings[0]
    assert (found.id, found.start, found.end, found.masked_start, found.masked_end) == ("email", 9, 23, 9, 16)


@pytest.mark.parametrize("piece", [MAIL, MAIL.encode()])
def test_bytes_are_read_like_text(piece):
    assert "".join(shown_of(opened(EMAIL), [piece[:11], piece[11:]])) == "Write to [EMAIL] today, or to me."


def test_token_ids_are_read_like_text():
    stream = opened(EMAIL)
    ids = TOKENIZER.encode(MAIL).ids
    assert stream.bytes_of(ids).decode() == MAIL
    stream.feed(ids)
    stream.finish()
    assert stream.masked(0, stream.releasable_chars) == "Write to [EMAIL] today, or to me."


def test_a_listed_word_blocks_before_itself_and_allows_nothing_behind_it():
    stream = opened(STOP, EMAIL)
    assert shown_of(stream, ["Hail Ze", "us and jo@example.com ", "more"]) == ["Hail ", "", "", ""]
    assert stream.releasable_chars == 5
    decision = stream.decision
    assert (decision.action, decision.side, decision.detector) == (Action.BLOCK, Side.RESPONSE, "stop")
    assert stream.so_far().decision == decision
    assert stream.finish().decision == decision


def test_the_event_of_the_piece_in_which_something_was_found_says_so():
    stream = opened(STOP)
    assert stream.feed("Hail Zeu")[-1].decision.action is Action.ALLOW
    assert stream.feed("s ")[-1].decision.detector == "stop"


def test_what_the_guard_blocks_stays_blocked_for_its_reason():
    stream = opened(EMAIL)
    stream.feed("Fine. jo@example.com ")
    events = stream.feed("## more")
    assert events[-1].decision.is_blocked
    assert (stream.decision.detector, stream.decision.side) == (None, Side.RESPONSE)
    assert stream.masked(0, stream.releasable_chars) == "Fine. [EMAIL] "


def test_truncating_takes_back_what_was_found_behind_the_place():
    stream = opened(STOP, EMAIL)
    stream.feed("Ask jo@example.com. Hail Zeus !")
    assert stream.decision.is_blocked
    stream.truncate(20)
    assert not stream.decision.is_blocked
    assert [each.id for each in stream.findings] == ["email"]
    stream.feed("Hail Hera !")
    stream.finish()
    assert stream.masked(0, stream.releasable_chars) == "Ask [EMAIL]. Hail Hera !"
    assert not stream.decision.is_blocked


def test_truncating_that_is_refused_takes_nothing_back():
    stream = opened(STOP)
    stream.feed("Hail Zeus !")
    with pytest.raises(InputError):
        stream.truncate(100)
    assert stream.decision.detector == "stop"


def test_reasoning_and_answer_are_two_texts():
    detecting = Policy(name="own", detectors=(EMAIL,))
    with Moderator(stream_guard(), policy=detecting) as moderator, moderator.stream("hello") as stream:
        try:
            stream.feed_reasoning("Mail jo@exa")
        except InputError:
            pytest.skip("the guard's template has no place for reasoning")
        stream.feed("mple.com is it")
        stream.finish()
        assert "jo@exa" in (stream.masked(0, 100) or "")


def test_a_prompt_is_read_too_unless_the_caller_brings_detectors():
    policy = Policy(name="own", detectors=(STOP,))
    said = Conversation((Message(Role.USER, "hail zeus"),), None)
    stream = with_detectors(HashGuard().stream(), policy, said)
    assert (stream.decision.detector, stream.decision.side) == ("stop", Side.PROMPT)
    assert stream.feed("x")[-1].decision.detector == "stop"
    theirs = with_detectors(HashGuard().stream(), policy, said, detectors=Detectors())
    assert isinstance(theirs, GuardStream)


def test_without_detectors_a_stream_is_what_it_was():
    stream = with_detectors(HashGuard().stream(), Policy.load("strict"), Conversation((), None))
    assert isinstance(stream, GuardStream)
    assert (tuple(stream.findings), stream.masked(0, 3)) == ((), None)


def test_an_allowed_word_hides_what_is_within_it():
    known = DetectorConfig(type="regex", id="known", patterns=(r"help@example\.com",), action=DetectorAction.ALLOW)
    assert "".join(shown_of(opened(EMAIL, known), ["help@exam", "ple.com, jo@example.com"])) == (
        "help@example.com, [EMAIL]"
    )
