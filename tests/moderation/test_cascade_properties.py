"""Whatever text, cuts, settings and answers: nothing leaves before both opinions, where both are asked."""

from bisect import bisect_right

from hypothesis import given, settings
from hypothesis import strategies as st

from streamward.errors import UpstreamError
from streamward.moderation.sentences import sentence_ends
from streamward.policy import Policy
from streamward.schema import Action
from tests.moderation.cascades import RULE, TestSecondGuard, cascade, conversation

PIECES = ["word", "w", " ", ". ", ".", "! ", "\n", "~", "^", "~~", "#", "##", "\u3002", "\u00e9", "a long clause, "]
ANSWERS = ["safe", "safe", "safe", "violated", "failed"]


class Asked:
    """What was asked, when, and how it was answered; the second guard's answers are drawn before."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers
        self.ends: list[int] = []  # of texts that the second guard let through, or whose failure is allowed
        self.stopped_at: int | None = None
        self.num = 0
        self.allows_failures = False

    def answer(self, text: str) -> tuple[str, ...]:
        answer = self.answers[self.num % len(self.answers)]
        self.num += 1
        if answer == "safe" or (answer == "failed" and self.allows_failures):
            self.ends.append(len(text))
        elif self.stopped_at is None:
            self.stopped_at = len(text)
        if answer == "failed":
            raise UpstreamError("down")
        return ("no-prices", "builtin.violent") if answer == "violated" else ()

    @property
    def covered(self) -> int:
        return max(self.ends, default=0)


def sentence_start(text: str, char: int) -> int:
    starts = [0, *sentence_ends(text)]
    return starts[bisect_right(starts, char) - 1]


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=10),
    answers=st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=6),
    has_rules=st.booleans(),
    hold=st.sampled_from(["unsure", "sentence"]),
    min_chars=st.sampled_from([0, 5, 40]),
    max_held_chars=st.sampled_from([8, 30, 600]),
    max_calls=st.integers(2, 8),
    on_error=st.sampled_from(["block", "allow"]),
)
def test_nothing_leaves_before_both_opinions(
    pieces, cuts, answers, has_rules, hold, min_chars, max_held_chars, max_calls, on_error
):
    text = "".join(pieces)
    asked = Asked(answers)
    asked.allows_failures = on_error == "allow"
    second = TestSecondGuard(asked.answer)
    policy = Policy.parse({"name": "p", "on_error": {"response": on_error}}, source="test")
    guard = cascade(
        second,
        hold=hold,
        min_chars=min_chars,
        max_held_chars=max_held_chars,
        max_calls=max_calls,
        rules=[RULE] if has_rules else [],
    )
    stream = guard.open_stream(conversation(None), policy, max_chars=10**6)
    unsure = [at for at, letter in enumerate(text) if letter in "~^#"]
    fed = 0

    def check(*, is_over: bool = False) -> None:
        released = stream.releasable_chars
        assert 0 <= released <= fed
        if has_rules:
            assert not text[asked.covered : released].strip()
        pending = next((at for at in unsure if at >= asked.covered), None)
        if pending is not None:
            assert released <= pending or pending >= fed
            first_stopped = stream.decision.action is Action.BLOCK and asked.stopped_at is None
            if hold == "sentence" and not has_rules and pending < fed and not first_stopped:
                assert released <= max(sentence_start(text, pending), asked.covered)
        if asked.stopped_at is not None:
            assert stream.decision.action is Action.BLOCK
            assert released < asked.stopped_at
        assert len(second.asked) <= max_calls
        if is_over and stream.decision.action is Action.ALLOW:
            assert released == len(text)

    second.on_asked = lambda said: check()  # also while it is asked
    at = 0
    while fed < len(text):
        size = cuts[at % len(cuts)]
        at += 1
        piece, fed = text[fed : fed + size], min(len(text), fed + size)
        stream.feed(piece)
        check()
    result = stream.finish()
    check(is_over=True)
    assert result.decision == stream.decision
    for said in second.texts:
        assert text.startswith(said)
    if asked.stopped_at is not None:
        assert second.texts[-1] == text[: asked.stopped_at]  # nobody is asked once the answer is no


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=40), cuts=st.lists(st.integers(1, 9), min_size=1))
def test_a_cascade_whose_second_guard_never_objects_cuts_where_its_first_guard_is_sure(pieces, cuts):
    """Wherever the text is cut, the decision is that of the first guard at its upper threshold."""
    text = "".join(pieces)
    second = TestSecondGuard()
    stream = cascade(second).open_stream(conversation(None), Policy.load("strict"), max_chars=10**6)
    at = number = 0
    while at < len(text):
        size = cuts[number % len(cuts)]
        number += 1
        stream.feed(text[at : at + size])
        at += size
    decision = stream.finish().decision
    sure = Policy.parse({"name": "p", "response": {"thresholds": {"unsafe": 0.8, "controversial": 0.8}}}, source="test")
    from tests.moderation.cascades import MarkGuard

    with MarkGuard().open_stream(conversation(None), sure) as alone:
        alone.feed(text)
        assert alone.finish().decision.action is decision.action
