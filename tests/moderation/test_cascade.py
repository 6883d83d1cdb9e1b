"""A second guard beside a first one: when it is asked, what waits for it, what follows."""

import threading

import httpx
import pytest

from streamward.errors import CallCancelledError, ConfigError, OverloadedError, StreamClosedError
from streamward.guard_call import GuardCall
from streamward.moderation.cascade import CascadeGuard, check_second_opinion, with_second_opinion
from streamward.moderation.conversation import Conversation
from streamward.moderation.moderator import Moderator
from streamward.moderation.sentences import sentence_ends
from streamward.policy import Policy
from streamward.policy_guards.config import SecondOpinionConfig
from streamward.schema import Action, Category, Message, RiskLevel, Role, Side
from tests.moderation.cascades import (
    RULE,
    STRICT,
    MarkGuard,
    TestSecondGuard,
    cascade,
    config,
    conversation,
    fails,
)

VIOLENT = ("builtin.violent",)


def opened(second: TestSecondGuard, *, policy: Policy = STRICT, prompt: str | None = "q", first=None, **changes):
    guard = cascade(second, first=first, **changes)
    return guard.open_stream(conversation(prompt), policy, max_chars=10**6), guard


def test_a_first_guard_that_is_sure_asks_nobody_and_holds_nothing():
    second = TestSecondGuard()
    stream, guard = opened(second)
    for piece in ("All is ", "well. ", "Really"):
        stream.feed(piece)
    assert stream.releasable_chars == len("All is well. Really")
    assert stream.finish().decision.action is Action.ALLOW
    assert second.asked == []
    assert guard.statistics().judged == 2  # the prompt, and a sentence


def test_text_from_an_unsure_token_on_waits_for_the_sentences_end_and_the_second_opinion():
    second = TestSecondGuard()
    stream, guard = opened(second)
    stream.feed("One. Two ~ thr")
    assert stream.releasable_chars == len("One. Two ")
    assert second.asked == []
    stream.feed("ee. Four")
    assert second.texts == ["One. Two ~ three."]
    assert stream.releasable_chars == len("One. Two ~ three. Four")
    assert stream.finish().decision.action is Action.ALLOW
    found = guard.statistics()
    assert (found.asked_unsure, found.only_first, found.agreement) == (1, 0, 1.0)  # one token is not enough to flag


def test_the_second_guard_sees_the_conversation_and_all_rules():
    second = TestSecondGuard()
    stream, _ = opened(second, rules=[{**RULE, "applies_to": ["response"]}])
    stream.feed("~ a. ")
    ((messages, rules),) = second.asked
    assert [(message.role, message.content) for message in messages[:1]] == [(Role.USER, "q")]
    assert messages[-1] == Message(Role.ASSISTANT, "~ a.")
    assert rules[0] == "no-prices"
    assert len(rules) == 1 + 8  # jailbreaks are about prompts


def test_what_the_second_guard_objects_to_does_not_leave():
    second = TestSecondGuard(lambda text: VIOLENT if "^" in text else ())
    stream, guard = opened(second)
    events = stream.feed("Fine. Bad ^ thing. More. ")
    assert stream.releasable_chars == len("Fine. Bad ")
    assert events[-1].decision == stream.decision
    decision = stream.decision
    assert (decision.action, decision.side, decision.category) == (Action.BLOCK, Side.RESPONSE, Category.VIOLENT)
    assert (decision.risk_level, decision.error) == (RiskLevel.UNSAFE, None)
    assert decision.position is not None
    result = stream.finish()
    assert result.decision == decision
    assert (result.response.risk_level, result.response.category) == (RiskLevel.UNSAFE, Category.VIOLENT)
    assert stream.releasable_chars == len("Fine. Bad ")
    assert len(second.asked) == 1
    assert guard.statistics().only_second == 1


def test_the_second_guard_may_let_pass_what_the_first_would_have_flagged():
    text = "Kill ~~~ the process. Done."
    with MarkGuard().open_stream(conversation(), STRICT) as alone:
        alone.feed(text)
        assert alone.decision.action is Action.BLOCK
    second = TestSecondGuard()
    stream, guard = opened(second)
    stream.feed(text)
    result = stream.finish()
    assert result.decision.action is Action.ALLOW
    assert stream.releasable_chars == len(text)
    assert guard.statistics().only_first == 1


def test_what_the_first_guard_is_sure_of_needs_no_second():
    second = TestSecondGuard()
    stream, _ = opened(second)
    stream.feed("Fine. A ## b. ")
    assert stream.decision.action is Action.BLOCK
    assert stream.releasable_chars == len("Fine. A ")
    assert stream.finish().response.risk_level is RiskLevel.UNSAFE
    assert second.asked == []


def test_a_threshold_that_the_policy_states_stays_the_first_guards_own():
    policy = Policy.parse({"name": "p", "response": {"thresholds": {"unsafe": 0.4}}}, source="test")
    second = TestSecondGuard()
    stream, _ = opened(second, policy=policy)
    stream.feed("a ~~ b. ")
    assert stream.decision.action is Action.BLOCK
    assert second.asked == []


def test_where_the_policy_allows_a_level_nobody_is_unsure_of_it():
    policy = Policy.parse({"name": "p", "response": {"unsafe": "allow", "controversial": "allow"}}, source="test")
    second = TestSecondGuard()
    stream, _ = opened(second, policy=policy)
    stream.feed("a ~~ ## b. ")
    assert stream.finish().decision.action is Action.ALLOW
    assert second.asked == []


def test_rules_are_asked_about_at_every_sentence_and_hold_all_text():
    second = TestSecondGuard(lambda text: ("no-prices",) if "euro" in text else ())
    stream, guard = opened(second, rules=[RULE], band=None, prompt=None)
    stream.feed("We sell ")
    assert stream.releasable_chars == 0
    stream.feed("books. They")
    assert stream.releasable_chars == len("We sell books.")
    stream.feed(" cost a euro. ")
    assert stream.releasable_chars == len("We sell books.")
    assert (stream.decision.action, stream.decision.category) == (Action.BLOCK, None)
    assert second.asked[-1][1] == ["no-prices"]
    found = guard.statistics()
    assert (found.asked_rules, found.rules_violated, found.rules_kept, found.agreement) == (2, 1, 1, None)


@pytest.mark.parametrize(
    ("severity", "name", "action"), [("Controversial", "loose", "allow"), ("Unsafe", "loose", "block")]
)
def test_the_severity_of_a_rule_and_the_policy_say_what_follows(severity, name, action):
    second = TestSecondGuard(lambda text: ("no-prices",))
    stream, _ = opened(second, policy=Policy.load(name), prompt=None, rules=[{**RULE, "severity": severity}])
    stream.feed("A price. ")
    result = stream.finish()
    assert result.decision.action is Action(action)
    assert result.response.risk_level is RiskLevel(severity)
    assert stream.releasable_chars == (9 if action == "allow" else 0)


def test_a_replacement_of_the_policy_is_given():
    policy = Policy.parse({"name": "p", "replacement": "No.", "response": {"unsafe": "replace"}}, source="test")
    second = TestSecondGuard(lambda text: ("no-prices",))
    stream, _ = opened(second, policy=policy, rules=[RULE], prompt=None)
    stream.feed("A price. ")
    assert (stream.decision.action, stream.decision.message) == (Action.REPLACE, "No.")
    assert stream.releasable_chars == 0


@pytest.mark.parametrize(("action", "released"), [("block", 5), ("flag", 14), ("allow", 14)])
def test_a_guard_that_fails_gives_the_policys_on_error(action, released):
    policy = Policy.parse({"name": "p", "on_error": {"response": action}}, source="test")
    second = TestSecondGuard(fails)
    stream, guard = opened(second, policy=policy)
    stream.feed("Fine ~ thing. ")
    assert (stream.decision.action, stream.decision.error) == (Action(action), "upstream_failed")
    assert stream.releasable_chars == released
    assert stream.finish().decision.error == "upstream_failed"
    found = guard.statistics()
    assert (found.failed, found.calls, found.agreement) == (1, 0, None)


def test_a_defect_of_the_second_guard_is_a_failure_too():
    def raises(text: str) -> tuple[str, ...]:
        raise ZeroDivisionError

    stream, _ = opened(TestSecondGuard(raises))
    stream.feed("Fine ~ thing. ")
    assert (stream.decision.action, stream.decision.error) == (Action.BLOCK, "guard_failed")
    assert stream.releasable_chars == 5


@pytest.mark.parametrize("action", ["block", "allow"])
def test_a_deadline_that_passes_gives_the_policys_on_error(action):
    async def hang(request: httpx.Request) -> httpx.Response:
        import asyncio

        await asyncio.Event().wait()
        raise AssertionError

    policy = Policy.parse({"name": "p", "on_error": {"response": action}}, source="test")
    guard = {"base_url": "http://second/v1", "model": "m", "format": "json-schema", "deadline_s": 0.05}
    wrap = with_second_opinion(config(guard=guard), transport=httpx.MockTransport(hang))
    moderator = Moderator(MarkGuard(), policy=policy)
    moderator.wrap_guard(wrap)
    with moderator, moderator.stream() as stream:
        stream.feed("Fine ~ thing. ")
        assert (stream.decision.action, stream.decision.error) == (Action(action), "upstream_unavailable")
        assert stream.releasable_chars == (5 if action == "block" else 14)
        assert stream.finish().decision.error == "upstream_unavailable"
        assert moderator.second_opinions().failed == 1


def test_nothing_leaves_while_the_second_guard_thinks():
    second, seen = TestSecondGuard(), []
    stream, _ = opened(second)
    second.on_asked = lambda text: seen.append((text, stream.releasable_chars))
    stream.feed("Sure. Un^sure. Sure")
    assert seen == [("Sure. Un^sure.", len("Sure. Un"))]


def test_hold_sentence_keeps_a_sentence_back_from_its_beginning():
    second = TestSecondGuard()
    stream, _ = opened(second, hold="sentence")
    stream.feed("Sure. Un")
    assert stream.releasable_chars == len("Sure.")
    stream.feed("^sure")
    assert stream.releasable_chars == len("Sure.")
    stream.feed(". ")
    assert stream.releasable_chars == len("Sure. Un^sure.")
    stream.finish()
    assert stream.releasable_chars == len("Sure. Un^sure. ")


def test_short_sentences_are_asked_about_together():
    second = TestSecondGuard()
    stream, _ = opened(second, rules=[RULE], min_chars=20, prompt=None)
    for piece in ("No. ", "Yes. ", "Perhaps so. ", "And"):
        stream.feed(piece)
    assert second.texts == ["No. Yes. Perhaps so."]
    stream.finish()
    assert second.texts[1:] == ["No. Yes. Perhaps so. And"]


def test_text_without_sentences_is_asked_about_in_parts():
    second = TestSecondGuard()
    stream, _ = opened(second, max_held_chars=30)
    stream.feed("^")
    for _ in range(10):
        stream.feed("word ")
    assert [len(text) for text in second.texts] == [31]
    assert stream.finish().decision.action is Action.ALLOW


def test_the_number_of_questions_is_bounded_and_the_last_is_kept_for_the_end():
    second = TestSecondGuard()
    stream, _ = opened(second, rules=[RULE], max_calls=6, prompt=None)
    sentence = "So it is. "
    for _ in range(300):
        stream.feed(sentence)
    assert len(second.asked) == 5
    held = stream.releasable_chars
    assert held < len(sentence) * 300
    result = stream.finish()
    assert result.decision.action is Action.ALLOW
    assert len(second.asked) == 6
    assert stream.releasable_chars == len(sentence) * 300


def test_a_slow_second_guard_is_asked_about_more_text_at_a_time():
    second, now = TestSecondGuard(), [0.0]

    def take_two_seconds(text: str) -> None:
        now[0] += 2.0

    second.on_asked = take_two_seconds
    stream, guard = opened(second, rules=[RULE], prompt=None, clock=lambda: now[0])
    for _ in range(9):
        stream.feed("So it is. ")
        now[0] += 0.5
    assert [len(text) for text in second.texts] == [9, 49, 89]  # at 0 s, 4 s and 8 s
    assert stream.finish().decision.action is Action.ALLOW
    assert guard.statistics().seconds == 6.0


def test_the_middle_of_a_long_text_is_left_out_of_questions():
    second = TestSecondGuard()
    stream, _ = opened(second, rules=[RULE], max_context_chars=50, prompt="a long question " * 20)
    stream.feed("So it is. " * 30)
    messages, _ = second.asked[-1]
    assert [len(message.content) for message in messages] == [50, 50]
    assert messages[-1].content.endswith("So it is.")


def test_reasoning_is_judged_with_the_answer():
    second = TestSecondGuard()
    stream, _ = opened(second)
    stream.feed_reasoning("I think ^ so. ")
    stream.feed("Yes ^ then. ")
    turns = [messages[-1] for messages, _ in second.asked]
    assert turns == [
        Message(Role.ASSISTANT, "", "I think ^ so."),
        Message(Role.ASSISTANT, "Yes ^ then.", "I think ^ so. "),
    ]
    stream.finish()
    assert stream.releasable_chars == len("I think ^ so. Yes ^ then. ")


@pytest.mark.parametrize("pieces", [[b"Caf\xc3", b"\xa9 ^ au lait. ", b"Oui"], ["Caf\u00e9 ^ au lait. ", "Oui"]])
def test_pieces_may_be_bytes_or_token_ids(pieces):
    from tests.moderation.cascades import TOKENIZER

    second = TestSecondGuard()
    stream, _ = opened(second)
    for piece in pieces:
        stream.feed(piece)
    assert second.texts == ["Caf\u00e9 ^ au lait."]
    other, _ = opened(second)
    other.feed(TOKENIZER.encode("Caf\u00e9 ^ au lait. Oui").ids)
    assert second.texts[1] == "Caf\u00e9 ^ au lait."
    assert stream.finish().decision == other.finish().decision


@pytest.mark.parametrize("prompt", ["Unsure ^ question", "Unsure ~ question"])
def test_an_unsure_prompt_is_asked_about_before_the_stream_opens(prompt):
    second = TestSecondGuard(lambda text: ("builtin.jailbreak",))
    stream, guard = opened(second, prompt=prompt)
    assert second.texts == [prompt]
    assert "builtin.jailbreak" in second.asked[0][1]
    assert (stream.decision.action, stream.decision.side) == (Action.BLOCK, Side.PROMPT)
    assert (stream.prompt.risk_level, stream.prompt.category) == (RiskLevel.UNSAFE, Category.JAILBREAK)
    assert stream.finish().decision == stream.decision
    found = guard.statistics()
    assert found.agreed_flagged + found.only_second == 1


def test_a_prompt_that_could_not_be_judged_follows_on_error():
    policy = Policy.parse({"name": "p", "on_error": {"prompt": "flag", "response": "block"}}, source="test")
    stream, _ = opened(TestSecondGuard(fails), prompt="Unsure ^", policy=policy)
    assert (stream.decision.action, stream.decision.error, stream.decision.side) == (
        Action.FLAG,
        "upstream_failed",
        Side.PROMPT,
    )
    stream.feed("Fine.")
    assert stream.releasable_chars == 5


def test_whole_texts_are_asked_about_once_for_each_side():
    second = TestSecondGuard(lambda text: VIOLENT if text == "No ^ good." else ())
    guard = cascade(second)
    assert guard.judge(conversation("q", "Fine."), STRICT).decision.action is Action.ALLOW
    assert second.asked == []
    result = guard.judge(conversation("A ^ question", "No ^ good."), STRICT)
    assert second.texts == ["A ^ question", "No ^ good."]
    assert (result.decision.action, result.decision.side) == (Action.BLOCK, Side.RESPONSE)
    assert result.prompt.risk_level is RiskLevel.SAFE
    assert result.response.category is Category.VIOLENT
    assert guard.judge(conversation("A ## question", "No ^ good."), STRICT).decision.side is Side.PROMPT
    assert len(second.asked) == 2


def test_results_of_tools_are_asked_about_as_such():
    second = TestSecondGuard()
    rule = {**RULE, "applies_to": ["tool_results"]}
    guard = cascade(second, rules=[rule], band=None)
    user = Message(Role.USER, "q")
    guard.judge(Conversation((user,), None), STRICT)
    assert second.asked == []
    guard.judge(Conversation((user, Message(Role.USER, "result")), None, before_tools=(user,)), STRICT)
    assert second.texts == ["result"]


def test_a_call_that_is_cancelled_while_it_asks_goes_on_with_the_next_one():
    second, asking = TestSecondGuard(), threading.Event()
    call = GuardCall()

    def cancelled(text: str) -> None:
        asking.set()
        call.cancel()
        call.check()

    second.on_asked = cancelled
    stream, _ = opened(second)
    with pytest.raises(CallCancelledError):
        call.make(lambda: stream.feed("Un^sure. "))
    assert asking.is_set()
    assert stream.releasable_chars == 2
    second.on_asked = lambda text: None
    events = stream.feed("So")
    assert events[0].verdict.span.start == 0  # the events that nobody was given
    assert stream.releasable_chars == len("Un^sure. So")
    assert second.texts == ["Un^sure.", "Un^sure."]
    assert stream.finish().decision.action is Action.ALLOW


def test_closing_ends_a_call_that_asks():
    second, asking, ended = TestSecondGuard(), threading.Event(), []
    from streamward.guard_call import current_call

    def wait(text: str) -> None:
        asking.set()
        woken = threading.Event()
        with current_call().waking(woken.set):
            assert woken.wait(10)
        current_call().check()

    second.on_asked = wait
    stream, _ = opened(second)

    def feed() -> None:
        with pytest.raises(StreamClosedError):
            stream.feed("Un^sure. ")
        ended.append(True)

    thread = threading.Thread(target=feed)
    thread.start()
    assert asking.wait(10)
    assert stream.releasable_chars == 2
    stream.close()
    thread.join(10)
    assert ended == [True]
    with pytest.raises(StreamClosedError):
        stream.feed("More")


def test_a_first_guard_without_room_asks_nobody():
    second = TestSecondGuard()
    stream, _ = opened(second, first=MarkGuard(OverloadedError("no room")))
    with pytest.raises(OverloadedError):
        stream.feed("Un^sure. ")
    assert (stream.releasable_chars, second.asked) == (0, [])
    stream.feed("")
    assert second.texts == ["Un^sure."]


def test_closing_the_cascade_closes_both_guards():
    first, second = MarkGuard(), TestSecondGuard()
    guard = cascade(second, first=first)
    guard.close()
    assert first.is_closed
    assert second.is_closed


def test_a_moderator_counts_second_opinions():
    second = TestSecondGuard()
    moderator = Moderator(MarkGuard(), policy=STRICT)
    assert moderator.second_opinions() is None
    moderator.wrap_guard(lambda first: cascade(second, first=first))
    view = moderator.with_policy(Policy.load("loose"))
    assert view.moderate("A ^ question").decision.action is Action.ALLOW
    found = moderator.second_opinions()
    assert (found.asked_unsure, found.calls, found.prompt_tokens, found.cached_tokens) == (1, 1, 100, 80)
    assert found.seconds >= 0
    moderator.close()
    assert second.is_closed


@pytest.mark.parametrize(
    "values",
    [
        {"band": [0.5, 0.5]},
        {"band": [0.0, 0.5]},
        {"band": [0.5, 1.5]},
        {"band": None},
        {"hold": "token"},
        {"max_calls": 1},
        {"guard": {"base_url": "guard", "model": "m", "format": "json-schema"}},
        {"guard": {"base_url": "http://guard/v1", "model": "m", "format": "gpt"}},
    ],
)
def test_settings_that_cannot_work_are_refused(values):
    with pytest.raises(ConfigError):
        config(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"rules": [RULE, RULE]},
        {"rules": [{**RULE, "id": "two words"}]},
        {"rules": [{**RULE, "id": "builtin.violent"}]},
        {"guard": {"base_url": "http://g/v1", "model": "m", "format": "llama-guard", "variant": "9"}},
        {"guard": {"base_url": "http://g/v1", "model": "m", "format": "dynaguard", "api_key_env": "NOT_SET_HERE"}},
    ],
)
def test_settings_of_the_second_guard_are_checked_before_anything_is_opened(values):
    found = config(**values)
    assert isinstance(found, SecondOpinionConfig)
    with pytest.raises(ConfigError):
        check_second_opinion(found)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", " Two!", " Three?"]),
        ("3.5 is more than 3", []),
        ("He said \u201cno.\u201d Then", ["He said \u201cno.\u201d"]),
        ("Ends here.", []),
        ("\u4f60\u597d\u3002\u518d\u89c1\uff01\u597d", ["\u4f60\u597d\u3002", "\u518d\u89c1\uff01"]),
        ("line\n\nline two", ["line\n", "\n"]),
        ("\u0939\u093e\u0901\u0964 \u0928\u0939\u0940\u0902", ["\u0939\u093e\u0901\u0964"]),
        ("Wait... what?! Yes", ["Wait...", " what?!"]),
        ("", []),
    ],
)
def test_sentences_end_where_readers_see_it(text, sentences):
    ends = sentence_ends(text)
    assert [text[start:end] for start, end in zip([0, *ends], ends, strict=False)] == sentences
    for cut in range(len(text)):
        assert sentence_ends(text[:cut]) == ends[: len(sentence_ends(text[:cut]))]


def test_a_cascade_streams_only_over_a_guard_that_streams():
    from streamward.errors import InputError
    from streamward.moderation.gen_guard_adapter import remote_guard

    guard = CascadeGuard(remote_guard("http://gen/v1", "gen"), cascade(TestSecondGuard())._second)
    with pytest.raises(InputError, match="whole texts"):
        guard.open_stream(conversation(), STRICT, max_chars=10)
    guard.close()
