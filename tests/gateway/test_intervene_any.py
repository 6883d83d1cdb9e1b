"""Whatever upstreams say, however it is cut, and whatever the ladder: what always holds of changed answers."""

import asyncio
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamward.gateway.call_record import EndReason
from streamward.intervene.wording import own_words
from tests.gateway.continuing import Turns, intervening
from tests.gateway.scripted import (
    DONE,
    TOKENIZER,
    Notebook,
    ScriptedGuard,
    call,
    chat,
    events_in,
    gateway,
    reasons_in,
    texts_in,
)
from tests.intervene.scripted_model import step

OWN = set(own_words()["refuse"].values())
PREFILLS = ["continue_final_message", "prefix", "assistant_last", "none"]
ACTIONS = st.tuples(st.sampled_from(["regenerate", "introspect", "rewrite"]), st.integers(1, 2))
many = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@many
@given(
    texts=st.lists(st.text("ab #.\n`", max_size=24), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    steps=st.lists(ACTIONS, max_size=3),
    last=st.sampled_from([None, "refuse", "stop"]),
    hold=st.integers(1, 10),
    prefill=st.sampled_from(PREFILLS),
    num_choices=st.integers(1, 2),
    is_stream=st.booleans(),
    has_usage=st.booleans(),
    fails=st.sets(st.integers(1, 3)),
)
def test_what_always_holds(texts, sizes, steps, last, hold, prefill, num_choices, is_stream, has_usage, fails) -> None:
    used = [step(action, attempts) for action, attempts in steps] + ([step(last)] if last else [])
    turns = Turns(*texts, sizes=sizes)
    turns.status = dict.fromkeys(fails, 503)
    guard, notebook = ScriptedGuard(), Notebook()
    body = chat(n=num_choices, stream=is_stream)
    if has_usage and is_stream:
        body["stream_options"] = {"include_usage": True}
    gate = gateway(turns, guard=guard, observer=notebook, prefill=prefill)  # type: ignore[arg-type]
    policy = intervening(*used, hold=hold)
    parts = asyncio.run(asyncio.wait_for(_parts(gate, call(body, policy=policy, reports_interventions=True)), 30))

    assert turns.num_open == guard.num_open == 0
    most = 1 + num_choices * sum(each.attempts + (each.action == "rewrite") * each.attempts for each in used)
    assert len(turns.bodies) <= most
    (outcome,) = notebook.outcomes
    assert outcome.ending in (EndReason.COMPLETE, EndReason.RESPONSE_BLOCKED)
    data = b"".join(parts)
    if is_stream:
        assert data.endswith(DONE)
        assert len({each["id"] for each in events_in(data)}) == 1
        shown = ["".join(texts_in(part).get((index, "content"), "") for part in parts) for index in range(num_choices)]
        reasons = reasons_in(data)
        usage = [each["usage"] for each in events_in(data) if each.get("usage")]
        assert len(usage) == has_usage
        notes = [each["guard"] for each in events_in(data) if "guard" in each]
    else:
        answer = json.loads(data)
        shown = [each["message"]["content"] or "" for each in answer["choices"]]
        reasons = {each["index"]: each["finish_reason"] for each in answer["choices"]}
        usage, notes = [answer["usage"]], [answer["guard"]]
    assert set(reasons) == set(range(num_choices))
    for index, text in enumerate(shown):
        own = next((each for each in OWN if text.endswith(each)), "")
        assert "##" not in text.removesuffix(own)
        if own or reasons[index] == "content_filter":
            assert outcome.ending is EndReason.RESPONSE_BLOCKED
        if "##" not in texts[0] and texts[0] != "#":  # a text of one token is judged by that token
            assert text == texts[0]
    (note,) = notes
    assert len(note["interventions"]) == len(outcome.interventions)
    for found in outcome.interventions:
        assert found.record.attempts <= 1 + sum(each.attempts for each in used)
        assert 0 <= found.record.at_char <= len(shown[found.group])
    if usage and prefill == "continue_final_message" and not fails:
        stated = turns.last_usage
        if len(stated) == len(turns.bodies):
            assert len(shown[0]) <= usage[0]["completion_tokens"] + sum(map(len, OWN))
            assert usage[0]["completion_tokens"] <= sum(each["completion_tokens"] for each in stated.values())
            assert usage[0]["prompt_tokens"] == sum(each["prompt_tokens"] for each in stated.values())


async def _parts(gate, request) -> list[bytes]:
    """The parts of an answer in the order in which they leave: none is ever taken back."""
    try:
        async with gate.answer(request) as answer:
            if answer.events is None:
                return [answer.body]
            return [part async for part in answer.events]
    finally:
        await gate.aclose()


@many
@given(
    texts=st.lists(st.text("ab #.", max_size=24), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    hold=st.integers(0, 10),
    num_taken=st.integers(0, 8),
)
def test_a_client_that_goes_at_any_time_leaves_nothing_open(texts, sizes, hold, num_taken) -> None:
    turns, guard, notebook = Turns(*texts, sizes=sizes), ScriptedGuard(), Notebook()
    gate = gateway(turns, guard=guard, observer=notebook, prefill="continue_final_message")  # type: ignore[arg-type]
    policy = intervening(step("regenerate", 2), step("introspect"), hold=hold)

    async def leave() -> None:
        async with gate.answer(call(chat(), policy=policy)) as answer:
            assert answer.events is not None
            for _ in range(num_taken):
                if await anext(answer.events, None) is None:
                    break
        await gate.aclose()

    asyncio.run(asyncio.wait_for(leave(), 30))
    assert turns.num_open == guard.num_open == 0
    assert len(notebook.outcomes) == 1


@many
@given(
    text=st.text("ab .\n", min_size=1, max_size=80),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    hold=st.integers(1, 12),
)
def test_no_more_tokens_are_held_than_the_policy_says(text, sizes, hold) -> None:
    turns = Turns(text, sizes=sizes)
    turns.permits = asyncio.Semaphore(0)
    pieces = turns.pieces(text)
    gate = gateway(turns, prefill="continue_final_message")  # type: ignore[arg-type]

    async def read() -> None:
        async with gate.answer(call(chat(), policy=intervening(step("stop"), hold=hold))) as answer:
            assert answer.events is not None
            assert turns.permits is not None
            shown = ""
            for count in range(1, len(pieces) + 1):
                turns.permits.release()
                num_tokens = len(TOKENIZER.encode("".join(pieces[:count])).ids)
                while num_tokens - len(TOKENIZER.encode(shown).ids) > hold:
                    part = await asyncio.wait_for(anext(answer.events), 5)
                    shown += texts_in(part).get((0, "content"), "")
            assert text.startswith(shown)

    async def run() -> None:
        await read()
        await gate.aclose()

    asyncio.run(asyncio.wait_for(run(), 30))
