"""`/v1/moderations`, `/v1/guard` and the guard as a chat model, as their clients see them."""

import json

import openai
import pytest

from streamward.generative.parsing import parse_answer
from streamward.schema import Category, RiskLevel
from streamward.server.moderations import ALL_KEYS, OPENAI_KEYS
from tests.server.services import open_service, served


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One service for all: nothing here depends on what was asked before."""
    with open_service(tmp_path_factory.mktemp("service")) as opened:
        yield opened


TEXTS = ["hello", "the other thing rolls on", "中文字符", "\0", "no"]


def test_a_string_gets_one_result_in_openais_shape(service):
    answer = service.post("/v1/moderations", {"input": "hello", "model": "omni-moderation-latest"})
    assert answer.status_code == 200
    (found,) = answer.json()["results"]
    for part in ("categories", "category_scores", "category_applied_input_types"):
        assert tuple(found[part]) == ALL_KEYS
    extension = found["streamward"]
    assert set(extension["categories"]) == set(Category)
    assert sum(extension["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert extension["policy"]["name"] == "strict"


def test_every_text_of_a_list_gets_what_it_gets_alone(service):
    together = service.post("/v1/moderations", {"input": TEXTS}).json()["results"]
    alone = [service.post("/v1/moderations", {"input": text}).json()["results"][0] for text in TEXTS]
    assert [found["streamward"]["decision"] for found in together] == [
        found["streamward"]["decision"] for found in alone
    ]
    for one, other in zip(together, alone, strict=True):
        assert one["category_scores"] == pytest.approx(other["category_scores"], abs=1e-4)


def test_the_service_answers_what_the_library_answers(service):
    for text in TEXTS:
        expected = service.state.moderator.moderate(prompt=text)
        (found,) = service.post("/v1/moderations", {"input": text}).json()["results"]
        assert found["flagged"] == (expected.decision.action != "allow")
        assert found["streamward"]["risk_level"] == expected.prompt.risk_level
        assert found["streamward"]["probabilities"] == pytest.approx(dict(expected.prompt.probabilities))


def test_scores_stand_only_where_the_guard_names_the_kind_of_harm(service):
    for found in service.post("/v1/moderations", {"input": [str(n) for n in range(40)]}).json()["results"]:
        extension = found["streamward"]
        named = [Category(name) for name, is_named in extension["categories"].items() if is_named]
        keys = {key for category in named for key in OPENAI_KEYS[category]}
        risk = 1 - extension["probabilities"]["Safe"]
        for key in ALL_KEYS:
            assert found["category_scores"][key] == pytest.approx(risk if key in keys else 0.0, abs=1e-5)
            assert found["categories"][key] == (key in keys and found["flagged"])


def test_keys_the_guard_cannot_tell_apart_say_that_no_text_was_applied(service):
    (found,) = service.post("/v1/moderations", {"input": "hello"}).json()["results"]
    judged = {key for keys in OPENAI_KEYS.values() for key in keys}
    assert {key for key, kinds in found["category_applied_input_types"].items() if kinds == ["text"]} == judged


def test_parts_of_text_are_one_input(service):
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": "there"}]
    (whole,) = service.post("/v1/moderations", {"input": "hello\nthere"}).json()["results"]
    (found,) = service.post("/v1/moderations", {"input": parts}).json()["results"]
    assert found["streamward"]["probabilities"] == pytest.approx(whole["streamward"]["probabilities"], abs=1e-4)


def test_a_picture_is_refused_instead_of_ignored(service):
    parts = [{"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}]
    answer = service.post("/v1/moderations", {"input": parts})
    assert answer.status_code == 400
    assert "is not text" in answer.json()["error"]["message"]


def test_text_may_be_judged_as_a_response_and_by_another_policy(service):
    wishes = {"policy": "loose", "side": "response"}
    (found,) = service.post("/v1/moderations", {"input": "the other thing", "streamward": wishes}).json()["results"]
    expected = service.state.moderator.moderate(response="the other thing").response
    assert found["streamward"]["policy"]["name"] == "loose"
    assert found["streamward"]["probabilities"] == pytest.approx(dict(expected.probabilities))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": None},
        {"input": []},
        {"input": 5},
        {"input": [1, 2]},
        {"input": {"a": 1}},
        {"input": "x", "streamward": {"colour": "red"}},
        {"input": "x", "streamward": {"policy": "nothing"}},
        {"input": [{"type": "text"}]},
        [],
        "x",
        None,
    ],
)
def test_what_is_no_moderation_request_is_refused_in_openais_shape(service, body):
    answer = service.post("/v1/moderations", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["code"] == "invalid_input"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("", "input is empty or blank"),
        (" \n", "input is empty or blank"),
        ([""], "input[0] is empty or blank"),
        (["hello", "\t"], "input[1] is empty or blank"),
        ([{"type": "text", "text": ""}], "input is empty or blank"),
        ([], "input must have at least 1 item"),
    ],
)
def test_a_text_without_a_character_to_judge_is_refused_by_name(service, given, named):
    answer = service.post("/v1/moderations", {"input": given})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert named in answer.json()["error"]["message"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"nonsense", b'{"input": "\xe2\x82"}', b"\x00"])
def test_a_body_that_is_no_json_is_refused(service, raw):
    answer = service.request("POST", "/v1/moderations", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_input"


def test_a_body_that_does_not_say_it_is_json_is_refused_with_a_hint(service):
    answer = service.request("POST", "/v1/guard", content=b'{"prompt": "x"}')
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_half_a_surrogate_pair_is_refused_or_judged_but_breaks_nothing(service):
    raw = b'{"input": "\\ud83d"}'
    answer = service.request("POST", "/v1/moderations", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400)


def test_guard_gives_both_sides_the_decision_and_every_verdict(service):
    body = {"prompt": "hello", "response": "the other thing", "verdicts": True}
    found = service.post("/v1/guard", body).json()
    expected = service.state.moderator.moderate(prompt="hello", response="the other thing")
    assert found["decision"]["action"] == expected.decision.action
    assert [verdict["risk_level"] for verdict in found["response"]["verdicts"]] == [
        verdict.risk_level for verdict in expected.response.verdicts
    ]
    assert found["prompt"]["risk_level"] == expected.prompt.risk_level
    assert "verdicts" in found["prompt"]


def test_guard_judges_a_conversation_with_reasoning(service):
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "yes", "reasoning": "they greet me"},
    ]
    found = service.post("/v1/guard", {"messages": messages, "verdicts": True}).json()
    expected = service.state.moderator.moderate(messages=messages)
    assert len(found["response"]["verdicts"]) == len(expected.response.verdicts)


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CONVERSATION = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "name": "ada", "content": [{"type": "text", "text": "Is it cold?"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "4 degrees"},
    {"role": "assistant", "content": "Yes.", "reasoning_content": "They ask for Oslo."},
]


@pytest.mark.parametrize("num_turns", [2, 3, 4, 5])
def test_an_openai_conversation_gets_what_the_library_says_of_it(service, num_turns):
    messages = CONVERSATION[:num_turns]
    found = service.post("/v1/guard", {"messages": messages, "verdicts": True})
    assert found.status_code == 200
    expected = service.state.moderator.moderate(messages=messages)
    for name, side in (("prompt", expected.prompt), ("response", expected.response)):
        levels = None if side is None else [verdict.risk_level for verdict in side.verdicts]
        shown = found.json()[name]
        assert (None if shown is None else [verdict["risk_level"] for verdict in shown["verdicts"]]) == levels
    chat = service.post("/v1/chat/completions", {"messages": messages})
    assert chat.status_code == 200


@pytest.mark.parametrize(
    "body", [{"prompt": ""}, {"response": "\n "}, {"messages": [{"role": "user", "content": None}]}]
)
def test_nothing_to_judge_is_refused(service, body):
    answer = service.post("/v1/guard", body)
    assert answer.status_code == 400
    assert "nothing to judge" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"prompt": 5}, 400),
        ({"messages": []}, 400),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400),
        ({"messages": [{"role": "system", "content": "x"}]}, 400),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, 400),
        ({"prompt": "x", "mood": "good"}, 400),
        ({"prompt": "x", "policy": "nothing"}, 400),
        ({"prompt": "x" * 1_000_001}, 413),
    ],
)
def test_guard_refuses_what_it_cannot_judge(service, body, status):
    assert service.post("/v1/guard", body).status_code == status


def test_errors_do_not_repeat_the_text(service):
    secret = "swordfish"
    body = {"messages": [{"role": secret, "content": secret, secret: secret}], secret: secret}
    assert secret not in service.post("/v1/guard", body).text


def test_the_guard_answers_as_a_chat_model_in_words_that_parse(service):
    messages = [{"role": "user", "content": "hello"}]
    found = service.post("/v1/chat/completions", {"model": "any", "messages": messages}).json()
    expected = service.state.moderator.moderate(messages=messages).prompt
    answer = parse_answer(found["choices"][0]["message"]["content"])
    assert answer.risk_level == expected.risk_level
    assert answer.categories == (() if expected.risk_level is RiskLevel.SAFE else (expected.category,))
    assert found["choices"][0]["finish_reason"] == "stop"


def test_a_streamed_chat_answer_says_the_same_and_ends_properly(service):
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the other thing"}]
    whole = service.post("/v1/chat/completions", {"messages": messages}).json()
    streamed = service.post("/v1/chat/completions", {"messages": messages, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *events, last, end = streamed.text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "system", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}], "n": 2},
        {"messages": "hello"},
    ],
)
def test_a_chat_that_cannot_be_judged_is_refused(service, body):
    assert service.post("/v1/chat/completions", body).status_code == 400


def test_the_official_client_works_unchanged(service):
    with served(service.app) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        moderation = client.moderations.create(input=["hello", "the other thing"])
        assert len(moderation.results) == 2
        assert isinstance(moderation.results[0].categories.self_harm_intent, bool)
        assert isinstance(moderation.results[0].category_scores.violence_graphic, float)
        parts = client.moderations.create(input=[{"type": "text", "text": "hello"}])
        assert parts.results[0].flagged == moderation.results[0].flagged
        chat = client.chat.completions.create(model="guard", messages=[{"role": "user", "content": "hello"}])
        assert chat.choices[0].message.content.startswith("Safety: ")
        with client.chat.completions.create(
            model="guard", messages=[{"role": "user", "content": "hello"}], stream=True
        ) as stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == chat.choices[0].message.content
        assert [model.id for model in client.models.list()] == ["stream-135m"]
        assert client.models.retrieve("stream-135m").owned_by == "streamward"
