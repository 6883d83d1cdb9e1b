"""What a client reads that has made a mistake: the key, what is allowed, the nearest known name, no machinery."""

import pytest

from tests.cli.test_messages import MACHINERY
from tests.server.services import open_service


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with open_service(tmp_path_factory.mktemp("service"), auth={"anonymous_is_admin": True}) as opened:
        yield opened


MISTAKES = [
    ("/v1/guard", {"promt": "x"}, "the body has an unknown key; did you mean 'prompt'?", None),
    ("/v1/guard", {"prompt": "x", "mood": 1}, "the body has an unknown key; known are prompt, response", None),
    ("/v1/guard", {"prompt": 5}, "prompt must be a string", "prompt"),
    ("/v1/guard", {"prompt": "x", "verdicts": "perhaps"}, "verdicts must be true or false", "verdicts"),
    ("/v1/guard", {"messages": []}, "messages must have at least 1 item", "messages"),
    ("/v1/guard", {"messages": "hello"}, "messages must be a list", "messages"),
    ("/v1/guard", {"messages": ["hello"]}, "messages[0] must be an object", "messages[0]"),
    ("/v1/guard", {"messages": [{"role": "usr", "content": "x"}]}, "messages[0].role is unknown; it must be", None),
    ("/v1/guard", {"messages": [{"role": "usr", "content": "x"}]}, "did you mean 'user'?", None),
    ("/v1/guard", {"messages": [{"content": "x"}]}, "messages[0].role is missing", None),
    ("/v1/guard", {}, "there is nothing to judge; give prompt, response or messages", None),
    ("/v1/guard", [], "the body must be an object", None),
    ("/v1/moderations", {}, "input is missing", "input"),
    ("/v1/moderations", {"input": 5}, "input must be a string or a list", "input"),
    ("/v1/moderations", {"input": []}, "input must have at least 1 item", "input"),
    ("/v1/moderations", {"input": [1]}, "input[0] must be a string or an object", "input[0]"),
    ("/v1/moderations", {"input": "x", "streamward": {"polcy": "a"}}, "did you mean 'policy'?", "streamward"),
    ("/v1/moderations", {"input": "x", "streamward": {"side": "promt"}}, "did you mean 'prompt'?", "streamward.side"),
    ("/v1/streams", {"prompt": "x", "messages": []}, "messages must have at least 1 item", "messages"),
    ("/v1/streams/str_x/append", {"text": "x", "reasoning": "y"}, "give exactly one of text, token_ids", None),
    ("/v1/streams/str_x/append", {"text": "x", "seq": -1}, "seq must be at least 0", "seq"),
    ("/v1/chat/completions", {"messages": 3}, "messages must be a list", "messages"),
    ("/admin/keys", {"tenant": "a", "limits": 1}, "has an unknown key", None),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "message", "param"), MISTAKES)
def test_a_mistake_in_a_request_is_named(service, path, body, message, param):
    answer = service.post(path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert message in error["message"]
    assert error["param"] == param
    assert MACHINERY.search(error["message"]) is None, error["message"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "the body is not JSON from character 2 on"),
        (b'{"prompt": }', "the body is not JSON from character 12 on"),
        (b"", "the body is missing"),
    ],
)
def test_a_body_that_is_no_json_says_from_where_on(service, raw, message):
    headers = {"Content-Type": "application/json"}
    error = service.request("POST", "/v1/guard", content=raw, headers=headers).json()["error"]
    assert error["message"] == message
