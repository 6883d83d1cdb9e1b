"""Candidate examples from an endpoint."""

import json
from pathlib import Path

import httpx
import pytest

from streamward.errors import ConfigError, UpstreamError
from streamward.policy import Policy
from streamward.rules.examples import load_examples
from streamward.rules.rule import Rule
from streamward.teach.draft import draft_examples


def rule_of(**values: object) -> Rule:
    stated = {"id": "one", "text": "no prices", "exceptions": ["our own"], **values}
    return Policy.parse({"name": "own", "rules": [stated]}, source="test").rules[0]


def answering(content: object, seen: list[httpx.Request] | None = None, status: int = 200) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        return httpx.Response(status, json={"choices": [{"message": {"content": content}}]})

    return httpx.MockTransport(answer)


def test_candidates_are_marked_and_refused_until_somebody_has_read_them(tmp_path: Path) -> None:
    rows = [
        {"prompt": "how much is it there", "response": None, "violates": True},
        {"prompt": "hi", "response": "It costs 5 there.", "violates": True},
        {"prompt": "what do you sell", "violates": False},
        {"prompt": "  ", "violates": False},
        {"prompt": "no label"},
        "junk",
    ]
    seen: list[httpx.Request] = []
    content = "Here they are:\n```json\n" + json.dumps(rows) + "\n```"
    lines = list(draft_examples(rule_of(), "http://host/v1#m", count=3, transport=answering(content, seen)))
    assert len(lines) == 3
    assert seen[0].url == "http://host/v1/chat/completions"
    asked = json.loads(seen[0].content)["messages"][0]["content"]
    assert "no prices" in asked and "our own" in asked
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    rule = rule_of(examples="rows.jsonl", counter_examples="rows.jsonl")
    with pytest.raises(ConfigError, match="draft"):
        load_examples(rule, tmp_path)
    path.write_text("\n".join(lines).replace(', "draft": true', ""), encoding="utf-8")
    assert len(load_examples(rule, tmp_path).violations) == 2


def test_candidates_are_on_the_sides_of_the_rule_only() -> None:
    rows = [{"prompt": "a", "response": "b", "violates": True}, {"prompt": "c", "violates": True}]
    transport = answering(json.dumps(rows))
    lines = list(draft_examples(rule_of(applies_to=["prompt"]), "http://host/v1#m", count=1, transport=transport))
    assert [json.loads(line)["prompt"] for line in lines] == ["c"]


@pytest.mark.parametrize("content", ["sorry", "[1, 2", "[]", "{}", None])
def test_an_answer_without_examples_is_an_error(content: object) -> None:
    with pytest.raises(UpstreamError):
        list(draft_examples(rule_of(), "http://host/v1#m", count=1, transport=answering(content)))


def test_an_endpoint_that_fails_is_an_error() -> None:
    with pytest.raises(UpstreamError, match="500"):
        list(draft_examples(rule_of(), "http://host/v1#m", count=1, transport=answering("[]", status=500)))


@pytest.mark.parametrize("endpoint", ["http://host/v1", "host#m"])
def test_an_endpoint_names_its_model(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="model"):
        list(draft_examples(rule_of(), endpoint, count=1))
