"""The assistant over HTTP."""

import concurrent.futures
import json
import time

import httpx
import pytest

from streamward.assistant.app import create_app
from streamward.assistant.writer import Assistant
from tests import loopback
from tests.assistant.assistants import tiny_assistant

MODEL = "smollm2-135m-instruct"
HELLO = [{"role": "user", "content": "hello"}]


def served(assistant: Assistant):
    return loopback.served(create_app(assistant))


@pytest.fixture(scope="module")
def client():
    with served(tiny_assistant()) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def chat(client, **body):
    return client.post("/v1/chat/completions", json={"model": MODEL, "messages": HELLO, "seed": 3, **body})


def chunks(response):
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def streamed_text(response, choice=0):
    return "".join(
        each["delta"].get("content", "")
        for chunk in chunks(response)
        for each in chunk["choices"]
        if each["index"] == choice
    )


def test_a_chat_answer_has_openais_shape(client):
    answer = chat(client, max_tokens=8).json()
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 8


def test_a_streamed_answer_is_the_whole_one_in_pieces(client):
    whole = chat(client, max_tokens=24).json()["choices"][0]["message"]["content"]
    response = chat(client, max_tokens=24, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert streamed_text(response) == whole
    first, *_, last = chunks(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0]["finish_reason"] == "length"
    assert "usage" not in last


def test_usage_follows_a_streamed_answer_on_request(client):
    *others, last = chunks(chat(client, max_tokens=5, stream=True, stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5
    assert {chunk["usage"] for chunk in others} == {None}


def test_several_choices_differ_and_each_ends(client):
    whole = chat(client, max_tokens=12, n=3).json()["choices"]
    assert len({choice["message"]["content"] for choice in whole}) == 3
    response = chat(client, max_tokens=12, n=3, stream=True)
    assert [streamed_text(response, index) for index in range(3)] == [each["message"]["content"] for each in whole]
    reasons = [choice["finish_reason"] for chunk in chunks(response) for choice in chunk["choices"]]
    assert len([reason for reason in reasons if reason]) == 3


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_ends_before_a_stop_sequence(client, is_streamed):
    content = chat(client, max_tokens=30).json()["choices"][0]["message"]["content"]
    stop = content[10:13]
    response = chat(client, max_tokens=30, stop=[stop], stream=is_streamed)
    text = streamed_text(response) if is_streamed else response.json()["choices"][0]["message"]["content"]
    assert text == content[: content.index(stop)]


def test_parts_of_a_message_are_joined_and_unknown_fields_ignored(client):
    whole = chat(client, temperature=0, max_tokens=8).json()
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    again = chat(client, temperature=0, max_tokens=8, messages=[{"role": "user", "content": parts}], user="x", tools=[])
    assert again.json()["choices"] == whole["choices"]


def test_completions_take_texts_and_token_ids(client):
    def complete(**body):
        return client.post("/v1/completions", json={"model": MODEL, "temperature": 0, "max_tokens": 6, **body})

    answer = complete(prompt="ab").json()
    assert answer["object"] == "text_completion"
    assert answer["usage"]["prompt_tokens"] == 2
    both = complete(prompt=["ab", "xyz"]).json()
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    assert both["choices"][0]["text"] == answer["choices"][0]["text"]
    assert len(complete(prompt=[65, 66]).json()["choices"]) == 1
    pieces = [choice["text"] for chunk in chunks(complete(prompt="ab", stream=True)) for choice in chunk["choices"]]
    assert "".join(pieces) == answer["choices"][0]["text"]


def test_the_model_is_listed(client):
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [MODEL]
    assert client.get(f"/v1/models/{MODEL}").json()["id"] == MODEL
    assert client.get("/v1/models/other").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "other"}, 404),
        ({"messages": []}, 400),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400),
        ({"temperature": -1}, 400),
        ({"temperature": "hot"}, 400),
        ({"top_p": 0}, 400),
        ({"n": 0}, 400),
        ({"n": 17}, 400),
        ({"max_tokens": 0}, 400),
        ({"logprobs": True}, 400),
        ({"seed": 2**64}, 400),
        ({"messages": [{"role": "user", "content": "x" * 400}]}, 413),
    ],
)
def test_a_bad_request_is_refused_with_openais_error_shape(client, body, status):
    response = chat(client, **body)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b"[" * 100_000, b'{"model": "\\ud800"}'])
def test_a_body_that_is_no_request_is_refused(client, body):
    assert client.post("/v1/chat/completions", content=body).status_code == 400


def test_a_huge_body_is_refused(client):
    assert client.post("/v1/chat/completions", content=b" " * (2**20 + 1)).status_code == 413


@pytest.mark.parametrize("text", ["", "\x00", "<|im_end|>\n<|im_start|>system", "日本語 नमस्ते 🏳️‍🌈", "\ufffd" * 9])
def test_any_text_is_answered(client, text):
    assert chat(client, messages=[{"role": "user", "content": text}], max_tokens=3).status_code == 200


def test_many_requests_at_once_are_all_answered(client):
    def ask(seed):
        return chat(client, seed=seed, max_tokens=20, stream=True)

    alone = [streamed_text(ask(seed)) for seed in range(3)]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        together = list(pool.map(ask, range(20)))
    assert [streamed_text(response) for response in together[:3]] == alone


def test_above_the_limit_requests_are_refused_with_a_time_to_retry():
    with (
        served(tiny_assistant(max_active=2, max_waiting=0, max_context_tokens=1000)) as url,
        httpx.Client(base_url=url) as client,
        client.stream("POST", "/v1/chat/completions", json=endless(n=2, max_tokens=900)) as response,
    ):
        next(response.iter_lines())
        refused = chat(client)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def endless(**body):
    return {"model": MODEL, "messages": HELLO, "stream": True, "max_tokens": 200, "temperature": 0, **body}


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_goes_away_stops_the_writing(is_streamed):
    assistant = tiny_assistant(max_context_tokens=1000)
    with served(assistant) as url:
        with httpx.Client(base_url=url, timeout=0.3) as client:
            body = endless(max_tokens=900, n=16, stream=is_streamed)
            if is_streamed:
                with client.stream("POST", "/v1/chat/completions", json=body) as response:
                    next(response.iter_lines())
                    assert assistant.num_answers == 16
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post("/v1/chat/completions", json=body)
        with httpx.Client(base_url=url) as client:
            deadline = time.monotonic() + 10
            while client.get("/health").json()["answers"] and time.monotonic() < deadline:
                pass
            assert assistant.num_answers == 0


def test_an_error_in_the_middle_of_a_stream_is_told():
    assistant = tiny_assistant()
    with (
        served(assistant) as url,
        httpx.Client(base_url=url, timeout=30) as client,
        client.stream("POST", "/v1/chat/completions", json=endless()) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        assistant.close()
        events = [line for line in lines if line]
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "stream_closed"
    assert events[-1] == "data: [DONE]"


def test_the_official_client_works_unchanged(client):
    openai = pytest.importorskip("openai")
    official = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
    with official:
        answer = official.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, seed=1)
        stream = official.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, seed=1, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == answer.choices[0].message.content
        with pytest.raises(openai.NotFoundError):
            official.chat.completions.create(model="other", messages=HELLO)


def test_an_answer_goes_on_with_the_text_it_is_given(client):
    whole = chat(client, max_tokens=20, temperature=0).json()["choices"][0]["message"]["content"]
    cut = whole.encode()[:10].decode("utf-8", "ignore")
    assert "\ufffd" not in cut
    given = [*HELLO, {"role": "assistant", "content": cut}]
    settings = {"messages": given, "continue_final_message": True, "add_generation_prompt": False}
    answer = chat(client, max_tokens=6, temperature=0, **settings).json()
    again = chat(client, max_tokens=6, temperature=0, messages=given).json()
    assert answer["choices"][0]["message"]["content"] != again["choices"][0]["message"]["content"]
    assert answer["usage"]["prompt_tokens"] < again["usage"]["prompt_tokens"]
    streamed = chat(client, max_tokens=6, temperature=0, stream=True, **settings)
    assert streamed_text(streamed) == answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "body",
    [
        {"continue_final_message": True},
        {"add_generation_prompt": False},
        {
            "messages": [*HELLO, {"role": "assistant", "content": "a"}],
            "continue_final_message": True,
            "add_generation_prompt": True,
        },
    ],
)
def test_a_prefill_that_makes_no_sense_is_refused(client, body):
    assert chat(client, **body).status_code == 400


def test_usage_is_told_with_every_chunk_on_request(client):
    asked = {"include_usage": True, "continuous_usage_stats": True}
    found = [chunk["usage"] for chunk in chunks(chat(client, max_tokens=5, stream=True, stream_options=asked))]
    counts = [usage["completion_tokens"] for usage in found if usage is not None]
    assert counts == sorted(counts)
    assert counts[-1] == 5
