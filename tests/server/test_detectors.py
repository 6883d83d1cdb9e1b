"""`POST /v1/guard` under a policy with detectors: findings, masked texts, decisions, and what the log keeps."""

import json

import pytest

from streamward.errors import ConfigError
from streamward.server.audit_reading import recent
from tests.server.marked_guard import marked_guard
from tests.server.services import open_service

POLICY = """
name = "masking"
recording.text = "always"
prompt.unsafe = "allow"

[[detectors]]
type = "email"

[[detectors]]
type = "words"
id = "names"
words = ["zeus"]
action = "block"
applies_to = ["prompt"]

[[detectors]]
type = "card"
action = "flag"
"""


@pytest.fixture
def service(tmp_path):
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "masking.toml").write_text(POLICY)
    with open_service(tmp_path, guard=marked_guard(), policies={"folder": str(folder)}) as opened:
        yield opened


def asked(service, **body):
    answer = service.post("/v1/guard", {"policy": "masking", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_findings_and_masked_texts_are_told(service):
    answer = asked(service, prompt="I am jo@example.com", response="hi jo@example.com, 4111 1111 1111 1111")
    assert answer["masked"] == {
        "prompt": "I am [EMAIL]",
        "response": "hi [EMAIL], 4111 1111 1111 1111",
        "messages": None,
    }
    assert [(each["path"], each["id"], each["action"], each["start"], each["end"]) for each in answer["findings"]] == [
        ("prompt", "email", "mask", 5, 19),
        ("response", "email", "mask", 3, 17),
        ("response", "card", "flag", 19, 38),
    ]
    assert (answer["findings"][2]["masked_start"], answer["findings"][2]["masked_end"]) == (12, 31)
    assert (answer["decision"]["action"], answer["decision"]["detector"]) == ("flag", "card")


def test_messages_are_masked_where_they_stand(service):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"m": "jo@example.com"}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "jo@example.com"}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "jo@example.com"},
    ]
    answer = asked(service, messages=messages)
    assert [(each["path"], each["target"]) for each in answer["findings"]] == [
        ("messages[0].content[0].text", "prompt"),
        ("messages[1].tool_calls[0].function.arguments", "tool_arguments"),
        ("messages[2].content", "tool_result"),
    ]
    masked = answer["masked"]["messages"]
    assert json.loads(masked[1]["tool_calls"][0]["function"]["arguments"]) == {"m": "[EMAIL]"}
    assert "example" not in json.dumps(masked)


def test_a_word_to_block_blocks_on_the_side_it_applies_to(service):
    decision = asked(service, prompt="I am Zeus")["decision"]
    assert (decision["action"], decision["side"], decision["detector"]) == ("block", "prompt", "names")
    assert asked(service, response="I am Zeus")["decision"]["detector"] is None


def test_the_log_keeps_masked_texts(service):
    asked(service, prompt="I am jo@example.com", response="hi jo@example.com")
    (row,) = recent(service.state.engine)
    assert (row["prompt_text"], row["response_text"]) == ("I am [EMAIL]", "hi [EMAIL]")


def test_the_log_names_the_detector_that_decided(service):
    asked(service, prompt="I am Zeus")
    (row,) = recent(service.state.engine)
    assert (row["action"], row["details"]["detector"]) == ("block", "names")


def test_a_policy_without_detectors_masks_nothing(service):
    answer = service.post("/v1/guard", {"prompt": "jo@example.com"}).json()
    assert (answer["findings"], answer["masked"]) == ([], None)


def test_a_service_does_not_start_without_the_key_of_hashes(tmp_path):
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "p.toml").write_text(
        'name = "p"\n[[detectors]]\ntype = "email"\nstyle = "hash"\nhash_key_env = "STREAMWARD_NO_SUCH_KEY"\n'
    )
    with (
        pytest.raises(ConfigError, match="STREAMWARD_NO_SUCH_KEY"),
        open_service(tmp_path, guard=marked_guard(), policies={"folder": str(folder)}),
    ):
        pass
