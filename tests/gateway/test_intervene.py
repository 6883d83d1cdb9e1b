"""Answers that are changed in progress, through the gateway."""

import asyncio
import json

import pytest

from streamward.errors import CheckpointError
from streamward.gateway.call_record import EndReason
from streamward.intervene.wording import FRESH_START_NOTE, own_words
from streamward.policy import Policy
from tests.gateway.continuing import Turns, intervening
from tests.gateway.scripted import (
    CONTENT,
    DONE,
    Notebook,
    Script,
    ScriptedGuard,
    ask,
    call,
    chat,
    delta,
    events_in,
    gateway,
    reasons_in,
    texts_in,
)
from tests.intervene.scripted_model import step

REFUSAL = own_words()["refuse"]["en"]
VLLM = {"prefill": "continue_final_message"}


def told(
    turns: Turns, policy: Policy, body: dict | None = None, *, prefill: str = "continue_final_message", **settings
):
    """The events of an answer, its record, and all its bytes."""
    guard, notebook = ScriptedGuard(), Notebook()
    gate = gateway(turns, guard=settings.pop("guard", guard), observer=notebook, prefill=prefill, **settings)  # type: ignore[arg-type]
    _, data = ask(gate, call(body or chat(), policy=policy, reports_interventions=True))
    assert guard.num_open == 0
    assert turns.num_open == 0
    (outcome,) = notebook.outcomes
    return data, outcome


def test_an_answer_that_is_not_flagged_has_the_bytes_of_mode_checked():
    turns, other = Turns("Fine. All good here."), Turns("Fine. All good here.")
    policy = intervening(step("regenerate"))
    _, data = ask(gateway(turns, **VLLM), call(chat(), policy=policy))
    assert data == ask(gateway(other), call(chat()))[1]
    assert data.endswith(DONE)


def test_a_flagged_answer_goes_on_from_the_sentence_before():
    turns = Turns("Fine. Now bad ## thing that goes on.", " Something else.")
    data, outcome = told(
        turns, intervening(step("regenerate", 2), hold=20), chat(temperature=0.5, seed=3, max_tokens=90)
    )
    assert texts_in(data)[CONTENT] == "Fine. Something else."
    assert reasons_in(data) == {0: "stop"}
    assert data.endswith(DONE)
    assert len({body["id"] for body in events_in(data)}) == 1
    again = turns.bodies[1]
    assert again["messages"][-1] == {"role": "assistant", "content": "Fine."}
    assert (again["continue_final_message"], again["add_generation_prompt"]) == (True, False)
    assert again["temperature"] == pytest.approx(0.6)
    assert again["seed"] == 4
    assert again["max_tokens"] == 86
    assert outcome.ending is EndReason.COMPLETE
    (found,) = outcome.interventions
    assert (found.record.action, found.record.outcome, found.record.at_char) == ("regenerate", "continued", 5)
    (note,) = [body["guard"] for body in events_in(data) if "guard" in body]
    assert note["interventions"][0]["attempts"] == 1
    assert note["interventions"][0]["category"] == "Violent"


def test_a_flag_ends_the_upstreams_request():
    turns = Turns("Fine. ##", " Good.", sizes=(8,))
    turns.gate, turns.gate_at = asyncio.Event(), 0  # never goes on by itself
    data, _ = told(turns, intervening(step("regenerate"), hold=20))
    assert texts_in(data)[CONTENT] == "Fine. Good."


@pytest.mark.parametrize(
    ("prefill", "path", "last"),
    [
        ("prefix", "/v1/chat/completions", {"role": "assistant", "content": "Fine.", "prefix": True}),
        ("assistant_last", "/v1/chat/completions", {"role": "assistant", "content": "Fine."}),
    ],
)
def test_each_kind_of_server_is_asked_in_its_own_way(prefill, path, last):
    turns = Turns("Fine. ##", " Good.")
    data, _ = told(turns, intervening(step("regenerate"), hold=20), prefill=prefill)
    assert texts_in(data)[CONTENT] == "Fine. Good."
    assert turns.paths[1] == path
    assert turns.bodies[1]["messages"][-1] == last
    assert "continue_final_message" not in turns.bodies[1]


def test_a_template_is_rendered_for_servers_that_continue_plain_text_only(tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
    )
    turns = Turns("Fine. ##", " Good.")
    body = chat(max_completion_tokens=50)
    data, _ = told(turns, intervening(step("regenerate"), hold=20), body, prefill="completions", chat_template=template)
    assert texts_in(data)[CONTENT] == "Fine. Good."
    assert turns.paths[1] == "/v1/completions"
    assert turns.bodies[1]["prompt"] == "[user]hello[a]Fine."
    assert turns.bodies[1]["max_tokens"] == 46
    assert "messages" not in turns.bodies[1]


def test_a_server_that_repeats_what_it_was_given_is_not_repeated():
    turns = Turns("Fine. ##", " Good.", repeats=True)
    data, _ = told(turns, intervening(step("regenerate"), hold=20), prefill="prefix", prefill_is_repeated=True)
    assert texts_in(data)[CONTENT] == "Fine. Good."


def test_a_self_check_never_leaves():
    turns = Turns("Fine. ##", " Good.")
    data, _ = told(turns, intervening(step("introspect", texts={"en": "Careful now."}), hold=20))
    assert turns.bodies[1]["messages"][-1]["content"] == "Fine.\n\nCareful now.\n\n"
    assert texts_in(data)[CONTENT] == "Fine. Good."


def test_where_the_upstream_cannot_continue_and_nothing_was_shown_it_begins_anew():
    turns = Turns("So bad ##", "A better one.")
    data, _ = told(turns, intervening(step("regenerate"), hold=20), prefill="none")
    assert texts_in(data)[CONTENT] == "A better one."
    assert turns.bodies[1]["messages"][0] == {"role": "system", "content": FRESH_START_NOTE}
    assert turns.bodies[1]["messages"][1:] == turns.bodies[0]["messages"]


def test_where_it_cannot_continue_what_was_shown_a_notice_ends_the_answer():
    turns = Turns("Shown already. And then ##", "never asked")
    data, outcome = told(turns, intervening(step("regenerate", 3), hold=3), prefill="none")
    assert texts_in(data)[CONTENT].startswith("Shown already. And")
    assert texts_in(data)[CONTENT].endswith(REFUSAL)
    assert reasons_in(data) == {0: "content_filter"}
    assert len(turns.bodies) == 1
    assert outcome.ending is EndReason.RESPONSE_BLOCKED
    assert outcome.decision.category == "Violent"


def test_the_ladder_ends_in_the_policys_sentence_in_the_language_of_the_answer():
    turns = Turns("Das ist der Anfang und nicht das Ende. ##", " und ##")
    policy = intervening(step("regenerate", 2), step("refuse", texts={"de": "Schluss."}), hold=50)
    data, outcome = told(turns, policy)
    assert texts_in(data)[CONTENT] == "Das ist der Anfang und nicht das Ende. Schluss."
    assert len(turns.bodies) == 3
    assert outcome.interventions[0].record.attempts == 3


def test_a_policys_replacement_is_its_closing_sentence():
    policy = Policy.parse(
        {"name": "r", "replacement": "Let us stop.", "response": {"unsafe": "replace"}}, source="test"
    )
    policy = policy.model_copy(update={"release": intervening(step("refuse"), hold=20).release})
    data, _ = told(Turns("Fine. ##"), policy)
    assert texts_in(data)[CONTENT] == "Fine. Let us stop."


def test_a_stop_shows_what_is_kept():
    data, outcome = told(Turns("Fine. Well ##"), intervening(step("stop"), hold=20))
    assert texts_in(data)[CONTENT] == "Fine."
    assert reasons_in(data) == {0: "content_filter"}
    assert outcome.interventions[0].record.outcome == "stopped"


def test_a_passage_is_rewritten_by_a_request_of_its_own():
    turns = Turns("Fine. Bad ##", "Kind words.", " The end.")
    data, _ = told(turns, intervening(step("rewrite", model="other"), hold=20))
    assert texts_in(data)[CONTENT] == "Fine. Kind words. The end."
    assert turns.bodies[1]["model"] == "other"
    assert turns.bodies[1]["messages"][-1] == {"role": "user", "content": "Bad ##"}
    assert turns.bodies[2]["messages"][-1]["content"] == "Fine. Kind words."


def test_usage_is_the_sum_over_all_calls():
    turns = Turns("Fine. ##", "## worse", " Good.")
    body = chat(stream_options={"include_usage": True})
    data, _ = told(turns, intervening(step("regenerate", 3), hold=20), body)
    assert len(turns.last_usage) == 3
    (usage,) = [each["usage"] for each in events_in(data) if each.get("usage")]
    assert usage["prompt_tokens"] == 3 * 7
    told_of = sum(
        each["completion_tokens"] for each in turns.last_usage.values()
    )  # some of it came too late to be read
    assert len("Fine. ##") + len("##") + len(" Good.") <= usage["completion_tokens"] <= told_of
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_answers_that_are_not_streamed_are_changed_too():
    turns = Turns("Fine. So bad ## and on", " Good.")
    data, outcome = told(turns, intervening(step("regenerate")), chat(stream=False))
    answer = json.loads(data)
    assert answer["choices"][0]["message"]["content"] == "Fine. Good."
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len("Fine. So bad ## and on") + len(" Good.")
    assert answer["guard"]["interventions"][0]["action"] == "regenerate"
    assert outcome.ending is EndReason.COMPLETE


def test_each_of_several_choices_is_changed_by_itself():
    script = Several()
    data, _ = told(script, intervening(step("regenerate"), hold=20), chat(n=2))
    assert texts_in(data) == {CONTENT: "One. Two.", (1, "content"): "Fine all along."}
    assert reasons_in(data) == {0: "stop", 1: "stop"}
    assert "n" not in script.bodies[1]


class Several(Turns):
    """Two choices, of which the first is flagged; then its continuation."""

    def __init__(self) -> None:
        super().__init__("", " Two.")

    async def events(self, turn, texts, body):
        if turn:
            async for each in super().events(turn, texts, body):
                yield each
            return
        for piece in ("One. ", "##"):
            yield delta(0, content=piece)
        for piece in ("Fine ", "all ", "along."):
            yield delta(1, content=piece)
            await asyncio.sleep(0.01)
        yield delta(1, reason="stop")
        yield DONE


def test_a_call_of_a_tool_is_held_whole_and_decided_whole():
    def calling(*arguments: str) -> Script:
        parts = [delta(tool_calls=[{"index": 0, "function": {"arguments": each}}]) for each in arguments]
        return Script(delta(content="Let me see."), *parts, delta(reason="tool_calls"), DONE)

    policy = intervening(step("regenerate"), step("refuse"), hold=2)
    _, data = ask(gateway(calling('{"a": 1,', ' "b": "##"}'), **VLLM), call(chat(), policy=policy))
    assert b"arguments" not in data
    assert reasons_in(data) == {0: "content_filter"}
    _, data = ask(gateway(calling('{"a": 1,', ' "b": 2}'), **VLLM), call(chat(), policy=policy))
    assert reasons_in(data) == {0: "tool_calls"}
    assert b'\\"b\\": 2' in data


def test_json_is_held_whole_and_asked_for_again_whole():
    turns = Turns('{"a": "##"}', '{"a": "b"}')
    body = chat(response_format={"type": "json_object"})
    data, _ = told(turns, intervening(step("introspect"), step("regenerate"), step("refuse"), hold=1), body)
    assert texts_in(data)[CONTENT] == '{"a": "b"}'
    assert turns.bodies[1]["messages"] == turns.bodies[0]["messages"]
    data, _ = told(Turns('{"a": "##"}'), intervening(step("regenerate"), step("refuse"), hold=1), body)
    assert CONTENT not in texts_in(data) or texts_in(data)[CONTENT] == ""
    assert reasons_in(data) == {0: "content_filter"}


def test_a_guard_that_fails_in_an_intervention_stops_the_answer():
    class Failing(ScriptedGuard):
        def _stream(self, messages, policy):
            stream = super()._stream(messages, policy)
            truncate = stream.truncate_coroutine

            async def fail(num_chars):
                await truncate(num_chars)
                raise CheckpointError("nan")

            stream.truncate_coroutine = fail
            return stream

    policy = intervening(step("regenerate"), hold=20)
    lenient = policy.model_copy(update={"on_error": policy.on_error.model_copy(update={"response": "allow"})})
    turns = Turns("Fine. ##", " never.")
    data, outcome = told(turns, lenient, guard=Failing())
    assert texts_in(data).get(CONTENT, "") == ""
    assert reasons_in(data) == {0: "content_filter"}
    assert len(turns.bodies) == 1
    assert outcome.ending is EndReason.GUARD_FAILED


def test_an_upstream_that_refuses_to_continue_is_an_attempt_that_failed():
    turns = Turns("Fine. ##", "x", " Good.")
    turns.status = {1: 400}
    data, outcome = told(turns, intervening(step("regenerate", 2), hold=20))
    assert texts_in(data)[CONTENT] == "Fine. Good."
    assert outcome.interventions[0].record.attempts == 2


def test_a_client_that_goes_ends_everything():
    turns = Turns("Fine. ##", " Good and long.")
    turns.gate, turns.gate_at = asyncio.Event(), 1
    guard, notebook = ScriptedGuard(), Notebook()
    gate = gateway(turns, guard=guard, observer=notebook, **VLLM)

    async def leave() -> None:
        async with gate.answer(call(chat(), policy=intervening(step("regenerate"), hold=20))) as answer:
            reading = asyncio.ensure_future(anext(answer.events))
            while len(turns.bodies) < 2 or not turns.num_told[1]:
                await asyncio.sleep(0.005)
                if reading.done():
                    reading = asyncio.ensure_future(anext(answer.events))
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await gate.aclose()

    asyncio.run(asyncio.wait_for(leave(), 10))
    assert turns.num_open == 0
    assert guard.num_open == 0
    assert notebook.outcomes[0].ending is EndReason.CLIENT_GONE


def test_the_time_to_the_first_byte_is_that_of_text():
    notebook = Notebook()
    ask(gateway(Turns("##"), observer=notebook, **VLLM), call(chat(), policy=intervening(step("stop"))))
    assert notebook.outcomes[0].first_byte_s is None


def test_text_completions_are_continued_by_their_prompt():
    turns = Turns("Fine. ##", " Good.")
    body = {"model": "m", "prompt": ["first"], "stream": True, "max_tokens": 30}
    _, data = ask(
        gateway(turns),
        call(body, format="completions", policy=intervening(step("regenerate"), hold=20)),
    )
    assert turns.bodies[1]["prompt"] == "firstFine."
    assert turns.paths[1] == "/v1/completions"
    assert "".join(each["choices"][0]["text"] for each in events_in(data)) == "Fine. Good."


def test_a_client_that_gives_the_beginning_of_the_answer_gets_it_continued():
    turns = Turns(" one. ##", " two.")
    body = chat()
    body["messages"] = [*body["messages"], {"role": "assistant", "content": "Begin"}]
    data, _ = told(turns, intervening(step("regenerate"), hold=20), body)
    assert turns.bodies[1]["messages"][-1]["content"] == "Begin one."
    assert texts_in(data)[CONTENT] == " one. two."


def test_the_number_of_held_tokens_is_a_bound_also_for_large_events():
    turns = Turns("a" * 200, sizes=(50,))
    turns.gate, turns.gate_at = asyncio.Event(), 0
    gate = gateway(turns, **VLLM)

    async def read() -> str:
        async with gate.answer(call(chat(), policy=intervening(step("stop"), hold=8))) as answer:
            data = b""
            async for part in answer.events:
                data += part
                if len(texts_in(data).get(CONTENT, "")) >= 42:
                    break
        await gate.aclose()
        return texts_in(data)[CONTENT]

    assert asyncio.run(asyncio.wait_for(read(), 10)) == "a" * 42


def response_text(data: bytes) -> str:
    return "".join(each["delta"] for each in events_in(data) if each["type"] == "response.output_text.delta")


def test_a_response_goes_on_in_the_message_it_began():
    turns = Turns("Fine. Bad ## it", " Good.")
    body = {"model": "m", "instructions": "Be kind.", "input": "hello", "stream": True, "max_output_tokens": 50}
    gate = gateway(turns, prefill="continue_final_message")
    policy = intervening(step("regenerate"), hold=20)
    _, data = ask(gate, call(body, format="responses", policy=policy, reports_interventions=True))
    assert response_text(data) == "Fine. Good."
    again = turns.bodies[1]
    assert turns.paths[1] == "/v1/chat/completions"
    assert [turn["role"] for turn in again["messages"]] == ["system", "user", "assistant"]
    assert again["max_completion_tokens"] == 46
    events = events_in(data)
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    done = next(each for each in events if each["type"] == "response.output_text.done")
    assert (done["text"], done["item_id"]) == ("Fine. Good.", "m-1")
    last = events[-1]
    assert last["type"] == "response.completed"
    (item,) = last["response"]["output"]
    assert item["content"][0]["text"] == "Fine. Good."
    assert last["response"]["usage"]["output_tokens"] >= len("Fine. Bad ##") - 2 + len(" Good.")
    assert last["response"]["guard"]["interventions"][0]["outcome"] == "continued"


def test_a_response_that_cannot_go_on_is_incomplete():
    turns = Turns("Fine. ##", "##")
    body = {
        "model": "m",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "stream": True,
    }
    gate = gateway(turns, prefill="continue_final_message")
    _, data = ask(gate, call(body, format="responses", policy=intervening(step("regenerate"), step("refuse"), hold=20)))
    assert response_text(data) == f"Fine. {REFUSAL}"
    last = events_in(data)[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "content_filter"}


def test_a_response_that_is_not_streamed_is_changed_too():
    turns = Turns("Fine. Bad ## it", " Good.")
    gate = gateway(turns, prefill="continue_final_message")
    body = {"model": "m", "input": "hello"}
    _, data = ask(gate, call(body, format="responses", policy=intervening(step("regenerate"))))
    answer = json.loads(data)
    assert answer["output"][0]["content"][0]["text"] == "Fine. Good."
    assert answer["status"] == "completed"
    assert answer["usage"]["input_tokens"] == 14


def test_what_repeats_the_text_beside_a_changed_choice_is_left_out():
    kept = "This is a harmless sentence that is rather long, so that a copy of it is seen to be one."
    text = f"{kept} Bad ##"
    body = {"index": 0, "message": {"content": text, "copy": text}, "finish_reason": "stop"}
    script = Script(json.dumps({"id": "c", "choices": [body]}).encode(), content_type="application/json")
    _, data = ask(gateway(script, **VLLM), call(chat(stream=False), policy=intervening(step("stop"))))
    assert b"##" not in data
    assert json.loads(data)["choices"][0]["message"]["content"] == kept


MASKING = {"name": "m", "detectors": [{"type": "email", "action": "mask"}]}


def test_detectors_read_a_changed_answer_too():
    turns = Turns("Fine. ##", " Write to jo@example.org now.")
    policy = Policy.parse(MASKING, source="test")
    policy = policy.model_copy(update={"release": intervening(step("regenerate"), hold=20).release})
    data, _ = told(turns, policy)
    assert texts_in(data)[CONTENT] == "Fine. Write to [EMAIL] now."


def test_what_a_detector_stops_is_changed_like_what_the_guard_stops():
    turns = Turns("Fine. Write to jo@example.org now.", " Write to nobody.")
    policy = Policy.parse({"name": "m", "detectors": [{"type": "email", "action": "block"}]}, source="test")
    policy = policy.model_copy(update={"release": intervening(step("regenerate"), hold=40).release})
    data, outcome = told(turns, policy)
    assert texts_in(data)[CONTENT] == "Fine. Write to nobody."
    assert outcome.interventions[0].record.outcome == "continued"


def test_the_step_mask_says_what_the_detectors_leave_of_a_flagged_text():
    class Addresses(ScriptedGuard):
        """Flags every `@`."""

    turns = Turns("Fine. Mail jo@example.org please.", " Thanks.", sizes=(40,))
    policy = Policy.parse(MASKING, source="test")
    policy = policy.model_copy(
        update={
            "release": intervening(step("mask"), hold=60).release,
            "response": policy.response.model_copy(update={"consecutive_tokens": 1}),
        }
    )
    data, outcome = told(turns, policy, guard=Addresses(mark=b"@"))
    assert texts_in(data)[CONTENT].startswith("Fine. Mail [EMAIL]")
    assert texts_in(data)[CONTENT].endswith(" Thanks.")
    assert outcome.interventions[0].record.action == "mask"
