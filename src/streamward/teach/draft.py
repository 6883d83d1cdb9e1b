"""Candidate examples of a rule, written by a capable model for a person to read, correct and confirm."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import httpx

from streamward.errors import ConfigError, UpstreamError
from streamward.rules.rule import Rule
from streamward.schema import Side

API_KEY_ENV = "STREAMWARD_API_KEY"
"""Environment variable with the key of the endpoint."""
_TIMEOUT_S = 300.0
_ARRAY = re.compile(r"\[.*\]", re.DOTALL)
_INSTRUCTION = """\
You write test data for a content filter. The rule: {text}
Allowed all the same: {exceptions}

Write {count} texts that break the rule and {count} allowed texts about the same matter, in the same words where
possible, so that only the rule tells them apart. {sides} Vary situation, length, tone and language (the languages of
the rule's users). No template, no numbering, no explanation. Answer with one JSON array of objects with the keys
{keys} and "violates" (true or false), and nothing else."""
_SIDE_WORDS = {
    frozenset({Side.PROMPT}): ("Each text is a message of a user to an assistant.", '"prompt"'),
    frozenset({Side.RESPONSE}): (
        "Each text is an assistant's answer, with the user's message before it; most violations begin after an allowed"
        " start.",
        '"prompt", "response"',
    ),
    frozenset(Side): (
        "Half of the texts are a user's messages (response null), half are an assistant's answers with the user's"
        " message before them; most violations in answers begin after an allowed start.",
        '"prompt", "response"',
    ),
}


def draft_examples(
    rule: Rule, endpoint: str, *, count: int, transport: httpx.BaseTransport | None = None
) -> Iterator[str]:
    """Yield candidate rows as JSON lines, marked as drafts: teaching refuses them until that mark is removed.

    Args:
        rule: What they are about; its words are sent to the endpoint.
        endpoint: OpenAI-compatible, `http://host/v1#model`; its key is taken from `STREAMWARD_API_KEY`.
        count: Examples, and as many counter-examples.
        transport: Transport of the endpoint; replaced in tests.

    Raises:
        ConfigError: The endpoint names no model.
        UpstreamError: The endpoint fails, or its answer contains no examples.
    """
    base_url, _, model = endpoint.partition("#")
    if not model or not base_url.startswith(("http://", "https://")):
        raise ConfigError("--draft needs an address and the model's name there: http://host/v1#model")
    sides, keys = _SIDE_WORDS[rule.sides]
    exceptions = " ".join(rule.exceptions) or "nothing in particular."
    content = _INSTRUCTION.format(text=rule.text, exceptions=exceptions, count=count, sides=sides, keys=keys)
    rows = _rows(_ask(base_url, model, content, transport))
    found = 0
    for row in rows:
        kept = _kept(row, rule)
        if kept is not None:
            found += 1
            yield json.dumps({"rule": rule.id, **kept, "draft": True}, ensure_ascii=False)
    if not found:
        raise UpstreamError("the model's answer contains no examples that could be used; try again or another model")


def _ask(base_url: str, model: str, content: str, transport: httpx.BaseTransport | None) -> str:
    key = os.environ.get(API_KEY_ENV)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0.9}
    try:
        with httpx.Client(timeout=_TIMEOUT_S, headers=headers, transport=transport) as client:
            answer = client.post(f"{base_url.rstrip('/')}/chat/completions", json=body)
            answer.raise_for_status()
            text = answer.json()["choices"][0]["message"]["content"]
    except httpx.HTTPStatusError as error:
        raise UpstreamError(f"the endpoint answered {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise UpstreamError(f"the endpoint cannot be reached: {type(error).__name__}") from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UpstreamError("the endpoint's answer is not a chat completion") from error
    if not isinstance(text, str):
        raise UpstreamError("the endpoint's answer has no text")
    return text


def _rows(text: str) -> list[Any]:  # Any: JSON values
    found = _ARRAY.search(text)
    try:
        rows = json.loads(found[0]) if found else None
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list):
        raise UpstreamError("the model's answer is not a JSON array; try again or another model")
    return rows


def _kept(row: Any, rule: Rule) -> dict[str, Any] | None:  # Any: JSON values
    """Return the fields of a usable candidate; None for one without text, label or a side of the rule."""
    if not isinstance(row, dict) or not isinstance(row.get("violates"), bool):
        return None
    texts = {name: row.get(name) for name in ("prompt", "response")}
    if any(text is not None and not isinstance(text, str) for text in texts.values()):
        return None
    given = {name: text for name, text in texts.items() if text and text.strip()}
    side = Side.RESPONSE if "response" in given else Side.PROMPT
    if not given or side not in rule.sides:
        return None
    return {**given, "violates": row["violates"]}
