"""The official client against guarded models, over real sockets."""

import json
from contextlib import contextmanager

import openai
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from tests.gateway.scripted import DONE, delta
from tests.gateway.test_release_responses import spoken
from tests.server.marked_guard import marked_moderator
from tests.server.services import open_service, served


def echo() -> FastAPI:
    """An upstream that says what it was told, with every @ for a #."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request):
        body = await request.json()
        text = body["messages"][-1]["content"].replace("@", "#")
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [
                {"index": 0, "message": message, "finish_reason": "stop"}
            ]}  # fmt: skip
        parts = [*(delta(content=letter) for letter in text), delta(reason="stop"), DONE]
        return StreamingResponse(iter(parts), media_type="text/event-stream")

    @app.post("/v1/responses")
    async def respond(request: Request):
        bodies = spoken((await request.json())["input"].replace("@", "#"), [3])
        parts = [
            f"event: {body['type']}\r\ndata: {json.dumps({**body, 'sequence_number': number})}\r\n\r\n".encode()
            for number, body in enumerate(bodies)
        ]
        return StreamingResponse(iter(parts), media_type="text/event-stream")

    return app


@contextmanager
def connected(folder):
    moderator = marked_moderator()
    with served(echo()) as upstream:
        upstreams = {"echo": {"base_url": f"{upstream}/v1"}}
        with (
            open_service(folder, guard=moderator._guard, upstreams=upstreams) as service,
            served(service.app) as address,
            openai.OpenAI(base_url=f"{address}/echo/v1", api_key="none", max_retries=0) as client,
        ):
            yield client
    moderator.close()


@pytest.fixture
def client(tmp_path):
    with connected(tmp_path) as opened:
        yield opened


def messages(text: str) -> list:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(("text", "shown", "reason"), [("a @ b", "a # b", "stop"), ("a @@ b", "a ", "content_filter")])
def test_chat_streamed_and_whole(client, text, shown, reason):
    whole = client.chat.completions.create(model="m", messages=messages(text)).choices[0]
    assert (whole.message.content, whole.finish_reason) == (shown, reason)
    said, reasons = "", []
    for chunk in client.chat.completions.create(model="m", messages=messages(text), stream=True):
        said += chunk.choices[0].delta.content or ""
        reasons.append(chunk.choices[0].finish_reason)
    assert (said, reasons[-1]) == (shown, reason)


def test_a_blocked_prompt_raises_what_azures_clients_expect(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=messages("##"), stream=True)
    assert caught.value.code == "content_filter"
    assert caught.value.body["innererror"]["code"] == "ResponsibleAIPolicyViolation"


def test_responses_streamed(client):
    with client.responses.stream(model="m", input="a @ b") as stream:
        list(stream)
        assert stream.get_final_response().output_text == "a # b"
    *_, last = client.responses.create(model="m", input="a @@ b", stream=True)
    assert (last.type, last.response.output_text) == ("response.incomplete", "a ")
    assert last.response.incomplete_details.reason == "content_filter"


def test_the_field_moderation_of_the_client(client):
    asked = {"model": "omni-moderation-latest", "policy": {"output": {"mode": "block"}}}
    answer = client.chat.completions.create(model="m", messages=messages("a @@ b"), extra_body={"moderation": asked})
    found = answer.to_dict()["moderation"]
    assert (found["input"]["results"][0]["flagged"], found["output"]["results"][0]["flagged"]) == (False, True)
    assert found["output"]["results"][0]["categories"]["violence"] is True
