"""A Stream guard through the moderator: whole texts, streams cut anywhere, windows, reasoning."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamward.errors import ConfigError, ContextLengthError, InputError, StreamClosedError
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.schema import Message, Role, Side, SideResult
from tests.moderation.guards import stream_guard

STRICT = Policy.load("strict")
TEXT = (
    "the thing about “quotes” and émigré 中文字符 👩‍💻 rolling; العربية e\u0301 def f(x):\n    return 'll <|im_end|>\n"
    * 3
)
PROMPT = "hello there"


def moderator(**limits) -> Moderator:
    return Moderator(stream_guard(**limits), policy=STRICT)


WIDE = moderator()
NARROW = moderator(window_tokens=120)


def assert_same(left: SideResult, right: SideResult) -> None:
    assert len(left.verdicts) == len(right.verdicts)
    for a, b in zip(left.verdicts, right.verdicts, strict=True):
        assert (a.position, a.span, a.risk_level, a.category) == (b.position, b.span, b.risk_level, b.category)
        assert dict(a.probabilities) == pytest.approx(dict(b.probabilities), abs=1e-5)
    assert (left.risk_level, left.category) == (right.risk_level, right.category)
    assert (left.first_flagged_char, left.first_flagged_token) == (right.first_flagged_char, right.first_flagged_token)
    assert left.windows == right.windows


def streamed(guard: Moderator, data, sizes: list[int], **context) -> SideResult:
    with guard.stream(**context) as stream:
        start = turn = 0
        while start < len(data):
            stream.feed(data[start : start + sizes[turn % len(sizes)]])
            start, turn = start + sizes[turn % len(sizes)], turn + 1
        response = stream.finish().response
    assert response is not None
    return response


@pytest.mark.parametrize("guard", [WIDE, NARROW], ids=["one window", "many windows"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5), is_bytes=st.booleans())
def test_a_stream_cut_anywhere_gives_the_verdicts_of_the_whole_text(guard, sizes, is_bytes):
    whole = guard.moderate(prompt=PROMPT, response=TEXT).response
    assert_same(streamed(guard, TEXT.encode() if is_bytes else TEXT, sizes, prompt=PROMPT), whole)


def test_token_ids_give_the_verdicts_of_their_text():
    ids = WIDE._guard.tokenizer.encode("the thing is rolling").ids
    whole = WIDE.moderate(prompt=PROMPT, response="the thing is rolling").response
    assert_same(streamed(WIDE, ids, [2, 1], prompt=PROMPT), whole)


def test_events_replayed_by_position_are_the_final_verdicts():
    replayed = {}
    with WIDE.stream(prompt=PROMPT) as stream:
        for character in TEXT:
            for event in stream.feed(character):
                replayed[event.verdict.position] = event.verdict
        response = stream.finish().response
    assert tuple(replayed[position] for position in range(len(response.verdicts))) == response.verdicts


def test_spans_lead_back_to_the_text_of_the_caller():
    response = WIDE.moderate(response=TEXT).response
    covered = {index for verdict in response.verdicts for index in range(*verdict.span)}
    assert covered == set(range(len(TEXT)))


def test_the_prompt_is_judged_alike_alone_with_a_response_and_in_a_stream():
    alone = WIDE.moderate(prompt=PROMPT).prompt
    beside = WIDE.moderate(prompt=PROMPT, response="yes").prompt
    with WIDE.stream(prompt=PROMPT) as stream:
        assert_same(alone, beside)
        assert_same(alone, stream.prompt)


def test_what_came_before_changes_the_verdict():
    calm = WIDE.moderate(prompt="hello", response="yes").response.verdicts[-1].probabilities
    other = WIDE.moderate(prompt="goodbye all", response="yes").response.verdicts[-1].probabilities
    assert dict(calm) != pytest.approx(dict(other), abs=1e-6)


def test_a_response_alone_has_no_prompt_judgement():
    result = WIDE.moderate(response="yes")
    assert result.prompt is None
    assert result.response is not None


def test_a_text_longer_than_the_window_says_in_how_many_it_was_judged():
    result = NARROW.moderate(prompt=TEXT, response=TEXT)
    assert result.prompt.windows > 1
    assert len(result.prompt.verdicts) == result.prompt.windows
    assert result.response.windows > 1
    assert len(result.response.verdicts) == len(NARROW._guard.tokenizer.encode(TEXT).ids)


def test_windows_of_a_long_prompt_overlap_and_cover_it():
    spans = [verdict.span for verdict in NARROW.moderate(prompt=TEXT).prompt.verdicts]
    assert spans[0].start == 0
    assert spans[-1].end == len(TEXT)
    assert all(later.start < earlier.end for earlier, later in pairwise(spans))


def test_a_prompt_that_just_fits_needs_one_window():
    frame = len(NARROW._guard.tokenizer.render([Message(Role.USER, "")], is_open=False).ids)
    room = 120 - frame + 1  # the newline behind the closing token is not read
    assert NARROW.moderate(prompt="z" * room).prompt.windows == 1
    assert NARROW.moderate(prompt="z" * (room + 1)).prompt.windows == 2


def test_the_oldest_turns_are_left_out_first():
    last = [{"role": "user", "content": "and now?"}]
    old = [{"role": "user", "content": "z" * 200}, {"role": "assistant", "content": "y" * 200}]
    assert_same(NARROW.moderate(messages=old + last).prompt, NARROW.moderate(messages=last).prompt)


def test_a_long_system_turn_does_not_hide_the_prompt():
    system = {"role": "system", "content": "s" * 3000}
    result = NARROW.moderate(messages=[system, {"role": "user", "content": PROMPT}])
    assert_same(result.prompt, NARROW.moderate(prompt=PROMPT).prompt)


def test_a_conversation_that_ends_with_a_system_turn_before_the_answer_judges_the_answer_only():
    result = WIDE.moderate(messages=[{"role": "system", "content": "be kind"}, {"role": "assistant", "content": "yes"}])
    assert result.prompt is None
    assert len(result.response.verdicts) == 3


def test_reasoning_is_judged_before_the_answer():
    whole = WIDE.moderate(
        messages=[Message(Role.USER, PROMPT), Message(Role.ASSISTANT, "the answer", reasoning="a thought")]
    ).response
    with WIDE.stream(prompt=PROMPT) as stream:
        for piece in ("a t", "hought"):
            stream.feed_reasoning(piece)
        for piece in ("the an", "swer"):
            stream.feed(piece)
        assert_same(stream.finish().response, whole)
    assert whole.verdicts[0].span == (0, 0)
    assert whole.verdicts[-1].span.end == len("a thoughtthe answer")


def test_a_turn_with_reasoning_is_read_as_the_template_renders_it():
    turns = [Message(Role.USER, PROMPT), Message(Role.ASSISTANT, "ok", reasoning="hmm")]
    guard = stream_guard()
    rendered = guard.tokenizer.render(turns, is_open=False)
    with guard.open_stream(_context(turns[:1]), STRICT) as stream:
        stream.feed_reasoning("hmm")
        stream.feed("ok")
        (read,) = guard.engine._streams.values()
        assert read.token_ids == rendered.ids[: len(read.token_ids)]
        assert read.heads.count(Side.RESPONSE) == stream.num_tokens


def _context(turns):
    from streamward.moderation.conversation import Conversation

    return Conversation(tuple(turns), None)


def test_reasoning_after_the_answer_is_bad_input():
    with WIDE.stream(prompt=PROMPT) as stream:
        stream.feed("yes")
        with pytest.raises(InputError, match="comes before"):
            stream.feed_reasoning("hmm")


def test_special_tokens_in_the_response_are_text():
    verdicts = WIDE.moderate(prompt=PROMPT, response="<|im_end|>").response.verdicts
    assert len(verdicts) == len("<|im_end|>")


@pytest.mark.parametrize("text", ["\x00", "\ud83d", "\ud83d\ude00", "\ufeff", "😀" * 50, "word " * 30])
def test_odd_texts_get_a_verdict(text):
    result = WIDE.moderate(prompt=text, response=text)
    assert result.prompt is not None
    assert result.response is not None
    assert result.response.risk_level is not None


def test_a_text_over_the_limit_is_refused_before_it_is_read():
    guard = Moderator(stream_guard(), policy=STRICT, max_chars=1000)
    with pytest.raises(ContextLengthError, match="1001 characters; at most 1000"):
        guard.moderate(prompt="z" * 1001)


def test_the_limit_holds_for_streams_too():
    guard = Moderator(stream_guard(), policy=STRICT, max_chars=1000)
    with guard.stream() as stream:
        stream.feed("z" * 999)
        with pytest.raises(ContextLengthError, match="max_chars"):
            stream.feed("zz")
        stream.feed("z")
        assert stream.finish().response.verdicts[-1].span.end == 1000


@pytest.mark.parametrize("piece", [None, 5, 1.5, ["a"], [True], {"a": 1}, object()])
def test_a_piece_of_another_kind_is_bad_input_and_nothing_is_lost(piece):
    with WIDE.stream(prompt=PROMPT) as stream:
        stream.feed("ye")
        with pytest.raises(InputError, match="str, bytes or a list of token ids"):
            stream.feed(piece)
        stream.feed("s")
        assert_same(stream.finish().response, WIDE.moderate(prompt=PROMPT, response="yes").response)


def test_token_ids_out_of_range_are_bad_input():
    with WIDE.stream() as stream, pytest.raises(InputError, match="out of range"):
        stream.feed([1, 10**9])


def test_feeding_after_the_end_is_refused():
    stream = WIDE.stream(prompt=PROMPT)
    result = stream.finish()
    assert stream.finish() is result
    with pytest.raises(StreamClosedError, match="finished or closed"):
        stream.feed("x")
    closed = WIDE.stream(prompt=PROMPT)
    closed.close()
    for call in (closed.finish, lambda: closed.feed("x"), lambda: closed.feed_reasoning("x")):
        with pytest.raises(StreamClosedError):
            call()


def test_closing_frees_everything():
    guard = stream_guard()
    moderated = Moderator(guard, policy=STRICT)
    free = guard.engine.num_free_pages
    for _ in range(20):
        moderated.moderate(prompt=TEXT, response=TEXT)
        with moderated.stream(prompt=PROMPT) as stream:
            stream.feed(TEXT)
    assert guard.engine.num_streams == 0
    assert guard.engine.num_free_pages == free


def test_a_window_too_small_for_the_template_is_refused():
    with pytest.raises(ConfigError, match="needs at least"):
        stream_guard(window_tokens=30)
