"""The code of the page on integrations runs with the real libraries."""

import re
from pathlib import Path

import pytest

import streamward
from tests.server.marked_guard import marked_moderator

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "integrate.md"
BLOCKS = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
FRAMEWORKS = ("langchain_core", "llama_index", "agents", "pydantic_ai", "haystack")

pytestmark = pytest.mark.integrations


def test_every_framework_has_code():
    assert len(BLOCKS) == 6
    assert all(any(f"from {framework}" in code for _, code in BLOCKS) for framework in FRAMEWORKS)


@pytest.mark.parametrize(("heading", "code"), BLOCKS, ids=[heading for heading, _ in BLOCKS])
def test_the_code_runs(heading, code, monkeypatch, capsys):
    for framework in FRAMEWORKS:
        if f"from {framework}" in code:
            pytest.importorskip(framework, reason=f"{framework} is not installed; make test-integrations")
    monkeypatch.setattr(streamward, "load", lambda name: marked_moderator(), raising=False)
    exec(compile(code, heading, "exec"), {"__name__": "documentation"})
    shown = capsys.readouterr().out
    assert heading == "OpenAI Agents SDK" or "flour" in shown or "text text" in shown
