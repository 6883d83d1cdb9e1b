"""One name for one thing: the keys of JSON are the attributes of the classes that a caller of the library sees."""

import json

import pytest

import streamward
from streamward.moderation.rows import result_json
from streamward.schema import Decision, Event, FirstFlagged, SideResult, Verdict
from tests.server.marked_guard import marked_guard, marked_moderator
from tests.server.services import open_service, served

FORMER = {"tokens", "first_flagged", "checked_chars"}
"""Keys that are sent until the next release."""
ONLY_OF_THE_SERVICE = {"findings", "masked"}
"""Keys that say what the service's detectors found; the library has them apart from a guard's result."""


def check(found: object, kind: type) -> None:
    """Every key is an attribute; what is not documented as a former name must not be missing there."""
    assert isinstance(found, dict)
    assert [key for key in found if key not in FORMER | ONLY_OF_THE_SERVICE and not hasattr(kind, key)] == []


@pytest.fixture(scope="module")
def flagged():
    with marked_moderator() as guard:
        return guard.moderate("hello", "a ## b")


def test_the_json_of_the_command_line(flagged):
    found = json.loads(json.dumps(result_json(flagged, has_verdicts=True)))
    check(found["response"], SideResult)
    check(found["response"]["verdicts"][0], Verdict)
    check(found["decision"], Decision)
    assert (found["response"]["first_flagged_char"], found["response"]["first_flagged_token"]) == (3, 3)
    assert found["response"]["num_tokens"] == found["response"]["tokens"] == flagged.response.num_tokens == 6


def test_the_json_of_the_service(tmp_path):
    with open_service(tmp_path, guard=marked_guard()) as service:
        found = service.post("/v1/guard", {"prompt": "hello", "response": "a ## b", "verdicts": True}).json()
        check(found, streamward.ServiceResult)
        check(found["response"], SideResult)
        check(found["response"]["verdicts"][0], Verdict)
        check(found["decision"], Decision)
        assert (found["response"]["first_flagged_char"], found["response"]["first_flagged_token"]) == (3, 3)
        assert found["response"]["first_flagged"] == [3, 3]
        (result,) = service.post("/v1/moderations", {"input": "#"}).json()["results"]
        check(result, streamward.TextModeration)
        check(result["streamward"], streamward.ModerationDetails)


def test_the_json_of_a_stream(tmp_path):
    with open_service(tmp_path, guard=marked_guard()) as service:
        assert service.post("/v1/streams", {}).status_code == 201

        async def use(client):
            stream = (await client.post("/v1/streams", json={"prompt": "hello"})).json()
            return (await client.post(f"/v1/streams/{stream['stream']}/append", json={"text": "a"})).json()

        found = service.run(use)
        names = {"decision", "releasable_chars", "findings", "masked"}
        assert found.keys() - {"type", "stream", "seq", "events", "is_failed"} <= names | FORMER
        assert all(hasattr(streamward.GuardStream, name) for name in names)
        check(found["events"][0], Event)
        check(found["events"][0]["verdict"], Verdict)


def test_the_former_name_of_what_was_flagged_first(flagged):
    assert flagged.response.first_flagged == FirstFlagged(position=3, char=3)
    assert flagged.prompt.first_flagged is None


def test_what_vllm_runs_is_told_by_its_own_argument(tmp_path):
    with pytest.warns(DeprecationWarning, match="vllm="), pytest.raises(streamward.CheckpointError):
        streamward.load("no-such-guard", engine="vllm")
    with pytest.raises(streamward.ConfigError, match="both"):
        streamward.load("no-such-guard", engine=streamward.EngineConfig(), vllm="vllm")


def test_the_client_reads_the_same_names(tmp_path, flagged):
    with (
        open_service(tmp_path, guard=marked_guard()) as service,
        served(service.app) as url,
        streamward.connect(url) as client,
    ):
        assert client.moderate("hello", "a ## b", verdicts=True).response == flagged.response
