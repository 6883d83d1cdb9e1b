"""A guard that takes too long: what it judged leaves, nothing else does, and everybody is told the same."""

import asyncio
import json

import pytest

from streamward.gateway.call_record import EndReason
from streamward.gateway.config import GatewayLimits
from streamward.policy import Policy
from streamward.schema import Action, RiskLevel
from tests.gateway.scripted import (
    CONTENT,
    DONE,
    Notebook,
    Script,
    ScriptedGuard,
    ask,
    asked,
    call,
    chat,
    delta,
    document,
    event,
    events_in,
    gateway,
    texts_in,
)
from tests.gateway.stalling import MovedLoop, StallingGuard, stall
from tests.gateway.test_endings import endings_in

QUICK = GatewayLimits(guard_timeout_s=0.05, overload_wait_s=0)
END = [delta(reason="stop"), DONE]


def stalled(
    script: Script,
    *,
    policy: Policy | None = None,
    guard: ScriptedGuard | None = None,
    limits: GatewayLimits = QUICK,
    **request,
):
    """What a client gets, and what is told, where the guard never comes to an end."""
    notebook = Notebook()
    gate = gateway(script, guard=guard or StallingGuard(), limits=limits, observer=notebook)
    fields = {} if policy is None else {"policy": policy}
    _, data = ask(gate, call(chat(**request), **fields))
    (outcome,) = notebook.outcomes
    return data, outcome


@pytest.mark.parametrize("is_one", [False, True])
def test_an_answer_is_cut_at_the_last_judged_character(is_one):
    parts = [delta(content="one "), delta(content="two ~ three"), delta(content=" four"), *END]
    script = Script(b"".join(parts)) if is_one else Script(*parts)
    data, outcome = stalled(script)
    part = outcome.parts[0]
    shown = texts_in(data).get(CONTENT, "")
    assert "one two ~ three four".startswith(shown)
    assert "~" not in shown
    assert endings_in(data) == [(0, "content_filter")]
    assert data.endswith(DONE)
    assert (part.num_judged_chars, part.num_shown_chars) == (len(shown), len(shown))
    assert (part.decision.action, part.decision.error) == (Action.BLOCK, "overloaded")
    assert outcome.ending is EndReason.GUARD_FAILED


def test_what_was_judged_of_a_long_text_before_the_deadline_leaves():
    text = "word " * 400 + "~" + " word" * 400
    script = Script(b"".join([delta(content=text), *END]))
    data, outcome = stalled(script, limits=GatewayLimits(guard_timeout_s=1.0, overload_wait_s=0))
    shown = texts_in(data)[CONTENT]
    part = outcome.parts[0]
    assert 1000 <= len(shown) < text.index("~")
    assert text.startswith(shown)
    assert part.num_shown_chars == part.num_judged_chars == len(shown)
    assert part.judgement is not None
    assert len(part.judgement.verdicts) == outcome.num_tokens > 0
    assert part.judgement.risk_level is RiskLevel.SAFE
    assert endings_in(data) == [(0, "content_filter")]


def test_the_end_of_the_judgement_counts_too():
    data, outcome = stalled(Script(delta(content="one two"), *END), guard=StallingGuard(before_finish=stall))
    assert texts_in(data)[CONTENT] == "one two"
    assert endings_in(data) == [(0, "content_filter")]
    assert outcome.parts[0].judgement.risk_level is RiskLevel.SAFE
    assert outcome.parts[0].decision.error == "overloaded"


def test_a_document_is_cut_too():
    data, outcome = stalled(document("word " * 200 + "~"), stream=False)
    choice = json.loads(data)["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    assert 0 < len(choice["message"]["content"]) == outcome.parts[0].num_shown_chars < 1000


@pytest.mark.parametrize("action", ["flag", "allow"])
def test_a_policy_may_let_the_rest_through_and_the_log_says_so(action):
    lenient = Policy.parse({"name": "l", "on_error": {"response": action}}, source="test")
    data, outcome = stalled(Script(delta(content="one ~"), delta(content=" two"), *END), policy=lenient)
    assert texts_in(data)[CONTENT] == "one ~ two"
    assert endings_in(data) == [(0, "stop")]
    assert (outcome.decision.action, outcome.decision.error) == (Action(action), "overloaded")
    assert (outcome.parts[0].num_judged_chars, outcome.parts[0].num_shown_chars) == (0, 9)


def test_text_beside_the_answer_that_is_not_judged_in_time_does_not_leave():
    late = event({"choices": [], "note": "a ~ b"})
    data, outcome = stalled(Script(delta(content="fine"), delta(reason="stop"), late, DONE))
    assert texts_in(data)[CONTENT] == "fine"
    assert b"~" not in data
    assert endings_in(data) == [(0, "content_filter")]
    assert outcome.parts[0].decision.error == "overloaded"


def test_a_text_that_was_stopped_keeps_its_reason():
    data, outcome = stalled(Script(delta(content="one ## two"), *END), guard=StallingGuard(before_finish=stall))
    assert texts_in(data)[CONTENT] == "one "
    part = outcome.parts[0]
    assert (part.decision.risk_level, part.decision.error) == (RiskLevel.UNSAFE, None)
    assert part.judgement.first_flagged_char == 5


def in_time(script: Script, guard: StallingGuard, loop: MovedLoop, *, between_s: float = 0.0, **config) -> bytes:
    """What a client gets that takes so long between two parts, of a gateway whose guard has 10 s."""

    async def read() -> bytes:
        gate = gateway(script, guard=guard, limits=GatewayLimits(guard_timeout_s=10.0), **config)
        parts = []
        async with gate.answer(call(chat())) as answer:
            assert answer.events is not None
            async for part in answer.events:
                parts.append(part)
                loop.skew_s += between_s
        await gate.aclose()
        return b"".join(parts)

    return loop.run(read())


async def _others_run() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_all_pieces_that_wait_share_one_deadline():
    loop = MovedLoop()

    async def feed(piece: str) -> None:
        loop.skew_s += 4
        await _others_run()

    script = Script(b"".join([delta(content="word " * 1000), *END]))
    data = in_time(script, StallingGuard(before_feed=feed), loop)
    assert 900 < len(texts_in(data)[CONTENT]) < 1100  # two pieces of 512
    assert endings_in(data) == [(0, "content_filter")]


def test_text_that_came_while_another_piece_was_judged_has_waited_since():
    loop = MovedLoop()
    script = Script(delta(content="one "), delta(content="two"), *END)
    script.gate, script.gate_at = asyncio.Event(), 1

    async def feed(piece: str) -> None:
        script.gate.set()
        await _others_run()
        loop.skew_s += 6
        await _others_run()

    data = in_time(script, StallingGuard(before_feed=feed), loop)
    assert texts_in(data)[CONTENT] == "one "
    assert endings_in(data) == [(0, "content_filter")]


def test_a_guard_stream_that_does_not_open_counts_as_late():
    class SecondStalls(StallingGuard):
        def open(self, messages, policy):
            return super().open(messages, policy) if not self.num_opened else NeverOpens()

    class NeverOpens:
        async def __aenter__(self):
            await stall()

        async def __aexit__(self, *error):
            pass

    late = event({"choices": [{"index": 0, "delta": {"content": " two"}, "note": "fine"}]})
    data, outcome = stalled(Script(delta(content="one"), late, *END), guard=SecondStalls())
    assert b"fine" not in data
    assert endings_in(data) == [(0, "content_filter")]
    assert outcome.parts[0].decision.error == "overloaded"


def test_a_slow_client_does_not_make_the_guard_late():
    loop = MovedLoop()
    script = Script(*[delta(content="word ")] * 5, *END)
    script.gate, script.gate_at = asyncio.Event(), 1

    async def feed(piece: str) -> None:
        script.gate.set()
        await _others_run()

    data = in_time(script, StallingGuard(before_feed=feed), loop, between_s=60)
    assert texts_in(data)[CONTENT] == "word " * 5
    assert endings_in(data) == [(0, "stop")]


@pytest.mark.parametrize("num_parts", [0, 1])
def test_an_upstream_that_falls_silent_for_longer_than_the_guard_has_is_an_upstream_that_failed(num_parts):
    loop, notebook = MovedLoop(), Notebook()
    script = Script(*[delta(content="one two")] * num_parts, *END)
    limits = GatewayLimits(guard_timeout_s=10, max_answer_s=900)
    gate = gateway(script, guard=StallingGuard(before_finish=_others_run), limits=limits, observer=notebook)

    async def silence() -> None:
        await _others_run()
        loop.skew_s += 1000

    async def read() -> bytes:
        script.gate, script.gate_at = asyncio.Event(), num_parts
        parts = []
        async with gate.answer(call(chat())) as answer:
            assert answer.events is not None
            if num_parts:
                parts.append(await anext(answer.events))
            waiting = asyncio.create_task(silence())
            parts += [part async for part in answer.events]
            await waiting
        await gate.aclose()
        return b"".join(parts)

    data = loop.run(read())
    assert texts_in(data).get(CONTENT, "") == "one two" * num_parts
    assert events_in(data)[-1]["error"]["code"] == "upstream_failed"
    assert endings_in(data) == []
    (outcome,) = notebook.outcomes
    assert (outcome.ending, outcome.decision.action) == (EndReason.UPSTREAM_FAILED, Action.ALLOW)


def test_text_that_came_while_the_prompt_was_judged_has_not_waited_before_its_verdict():
    loop = MovedLoop()

    class SlowPrompt(StallingGuard):
        def open(self, messages, policy):
            return _OpensLate(super().open(messages, policy))

    class _OpensLate:
        def __init__(self, inner) -> None:
            self._inner = inner

        async def __aenter__(self):
            await _others_run()  # the upstream answers meanwhile
            loop.skew_s += 8
            return await self._inner.__aenter__()

        async def __aexit__(self, *error):
            await self._inner.__aexit__(*error)

    async def feed(piece: str) -> None:
        loop.skew_s += 4
        await _others_run()

    script = Script(b"".join([delta(content="one two"), *END]))
    guard = SlowPrompt(before_feed=feed)
    data = in_time(script, guard, loop, prompt={"call_upstream": "at_once"})
    assert texts_in(data)[CONTENT] == "one two"
    assert endings_in(data) == [(0, "stop")]


def test_a_client_that_is_slow_to_take_the_annotations_does_not_make_the_guard_late():
    loop = MovedLoop()

    async def feed(piece: str) -> None:
        await _others_run()

    script = Script(b"".join([delta(content="one two"), *END]))
    data = in_time(script, StallingGuard(before_feed=feed), loop, between_s=60, annotations=True)
    assert texts_in(data)[CONTENT] == "one two"
    assert endings_in(data) == [(0, "stop")]


def test_an_answer_that_the_client_left_is_told_as_far_as_it_went():
    notebook, waits = Notebook(), asyncio.Event()

    async def feed(piece: str) -> None:
        if "~" in piece:
            waits.set()

    script = Script(delta(content="one # two "), delta(content="~ three"), *END)
    script.gate, script.gate_at = asyncio.Event(), 1
    gate = gateway(script, guard=StallingGuard(before_feed=feed), observer=notebook)

    async def leave() -> None:
        async def read() -> None:
            async with gate.answer(call(chat())) as answer:
                async for _ in answer.events:
                    script.gate.set()

        task = asyncio.create_task(read())
        await waits.wait()
        task.cancel()
        await asyncio.wait({task})
        await gate.aclose()

    asyncio.run(leave())
    (outcome,) = notebook.outcomes
    (part,) = outcome.parts
    assert outcome.ending is EndReason.CLIENT_GONE
    assert (part.num_judged_chars, part.num_shown_chars) == (10, 10)
    assert len(part.judgement.verdicts) == 10
    assert part.judgement.risk_level is RiskLevel.SAFE
    assert part.decision.action is Action.ALLOW


def test_a_flag_in_force_is_told_of_an_answer_that_the_client_left():
    flagging = Policy.parse({"name": "f", "response": {"unsafe": "flag", "controversial": "flag"}}, source="test")
    notebook = Notebook()
    script = Script(delta(content="one ## two"), *END)
    script.gate, script.gate_at = asyncio.Event(), 1

    async def leave() -> None:
        gate = gateway(script, observer=notebook)
        async with gate.answer(call(chat(), policy=flagging)) as answer:
            assert answer.events is not None
            await anext(answer.events)
        await gate.aclose()

    asyncio.run(leave())
    (part,) = notebook.outcomes[0].parts
    assert (part.decision.action, part.judgement.risk_level) == (Action.FLAG, RiskLevel.UNSAFE)
    assert (part.num_judged_chars, part.num_shown_chars) == (10, 10)


def test_an_answer_under_a_deadline_that_is_kept_is_whole():
    notebook = Notebook()
    gate = gateway(Script(delta(content="word " * 1000), *END), observer=notebook)
    _, data = asyncio.run(asked(gate, call(chat())))
    assert texts_in(data)[CONTENT] == "word " * 1000
    assert notebook.outcomes[0].parts[0].num_shown_chars == 5000
