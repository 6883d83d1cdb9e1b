"""Streams of the service under a policy with detectors: over HTTP, over a WebSocket, and for whoever watches."""

import json

import pytest
from websockets.sync.client import connect

from streamward.server.live import LiveKind
from tests.server.marked_guard import MASKING, marked_guard
from tests.server.services import open_service, served

PIECES = ["Write to jo@exa", "mple.com, or to the other one", " who is at home"]
SHOWN = ["Write to ", "[EMAIL], or to the other ", "one who is at ", "home"]


@pytest.fixture
def service(tmp_path):
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "masking.toml").write_text(MASKING)
    policies, console = {"folder": str(folder)}, {"live_text": True}
    with open_service(tmp_path, guard=marked_guard(), policies=policies, console=console) as opened:
        yield opened


async def opened(client, **body):
    return (await client.post("/v1/streams", json={"policy": "masking", **body})).json()


async def fed(client, stream, pieces):
    answers = []
    for number, text in enumerate(pieces):
        body = {"text": text, "seq": number}
        answers.append((await client.post(f"/v1/streams/{stream}/append", json=body)).json())
    closed = (await client.post(f"/v1/streams/{stream}/close")).json()
    return answers, closed


def test_text_is_masked_and_findings_are_told_as_text_comes(service):
    async def use(client):
        stream = (await opened(client, prompt="hello"))["stream"]
        first = await client.post(f"/v1/streams/{stream}/append", json={"text": PIECES[0], "seq": 0})
        again = await client.post(f"/v1/streams/{stream}/append", json={"text": PIECES[0], "seq": 0})
        assert first.json() == again.json()  # what was told once is not told anew
        answers = [first.json()]
        for number, text in enumerate(PIECES[1:], 1):
            body = {"text": text, "seq": number}
            answers.append((await client.post(f"/v1/streams/{stream}/append", json=body)).json())
        missed = (await client.get(f"/v1/streams/{stream}?after=0")).json()["missed"]
        return answers, missed, (await client.post(f"/v1/streams/{stream}/close")).json()

    answers, missed, closed = service.run(use)
    assert [each["masked"] for each in [*answers, closed]] == SHOWN
    assert [len(each["findings"]) for each in [*answers, closed]] == [0, 1, 0, 0]
    found = answers[1]["findings"][0]
    assert (found["id"], found["action"], found["start"], found["end"]) == ("email", "mask", 9, 23)
    assert [each["masked"] for each in missed] == SHOWN[1:3]


def test_a_listed_word_ends_a_stream_before_it(service):
    async def use(client):
        stream = (await opened(client, prompt="hello"))["stream"]
        return await fed(client, stream, ["Hail Ze", "us !"])

    answers, closed = service.run(use)
    assert [each["masked"] for each in [*answers, closed]] == ["Hail ", "", ""]
    assert [each["decision"]["action"] for each in [*answers, closed]] == ["allow", "block", "block"]
    assert closed["decision"]["detector"] == "names"


def test_a_listed_word_blocks_a_prompt(service):
    async def use(client):
        return await opened(client, prompt="hail zeus")

    decision = service.run(use)["decision"]
    assert (decision["action"], decision["side"], decision["detector"]) == ("block", "prompt", "names")


def test_without_detectors_nothing_is_masked(service):
    async def use(client):
        stream = (await opened(client, prompt="hello", policy="strict"))["stream"]
        return await fed(client, stream, PIECES)

    answers, closed = service.run(use)
    assert [each["masked"] for each in [*answers, closed]] == [None] * 4
    assert [each["findings"] for each in [*answers, closed]] == [[]] * 4


def test_a_websocket_tells_the_same(service):
    with served(service.app) as url, connect(url.replace("http", "ws") + "/v1/streams") as connection:

        def ask(**message):
            connection.send(json.dumps(message))
            return json.loads(connection.recv(timeout=30))

        stream = ask(type="open", prompt="hello", policy="masking")["stream"]
        answers = [ask(type="append", stream=stream, text=text) for text in PIECES]
        answers.append(ask(type="close", stream=stream))
    assert [each["masked"] for each in answers] == SHOWN


def test_whoever_watches_sees_masked_text_and_which_detector_decided(service):
    async def use(client):
        with service.state.feed.watched(None, owner="ops") as subscriber:
            stream = (await opened(client, prompt="hello"))["stream"]
            await fed(client, stream, [*PIECES, ". Hail zeus !"])
            found = []
            while event := await subscriber.next(0):
                found.append(event)
            return found

    events = service.run(use)
    shown: list[str] = []
    for event in events:
        if event.kind is LiveKind.TOKENS:
            shown[event.start :] = [token.text for token in event.tokens]
    text = "".join(shown)
    assert text.startswith("Write to [EMAIL], or to the other one who is at home")
    assert not any("jo@" in token.text or "exa" in token.text for event in events for token in event.tokens)
    assert (events[-1].kind, events[-1].detector) == (LiveKind.DECIDED, "names")
