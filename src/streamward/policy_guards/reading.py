"""Reads what guards write. Errors say what is wrong with an answer, never what it says."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streamward.errors import UpstreamError
from streamward.policy_guards.rules import GuardRule, RuleOpinion

_MAX_EXPLANATION_CHARS = 1000
_FENCED = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL | re.IGNORECASE)
_HARMONY_FINAL = "<|channel|>final<|message|>"
_HARMONY_END = re.compile(r"<\|(?:return|end)\|>\s*\Z")


def split_reasoning(text: str) -> tuple[str | None, str]:
    """Return the reasoning before an answer, None if there is none, and the answer.

    Reasoning is `<think> ... </think>`; the first tag may be missing, where the prompt has written it.

    Raises:
        UpstreamError: The answer ends within its reasoning, or has more than one.
    """
    before, tag, answer = text.partition("</think>")
    if not tag:
        if "<think>" in text:  # cut off while it thought: what it says there is no answer
            raise UpstreamError("the guard's answer ends within its reasoning; it may need more max_answer_tokens")
        return None, text.strip()
    if "<think>" in answer or "</think>" in answer:
        raise UpstreamError("the guard's answer has more than one part of reasoning")
    reasoning = before.strip()
    if not reasoning.startswith("<think>") and "<think>" in reasoning:
        raise UpstreamError("the guard's answer has text before its reasoning")
    return reasoning.removeprefix("<think>").strip() or None, answer.strip()


def final_channel(text: str) -> str:
    """Return the final channel of an answer in the harmony format, where a server has not taken it apart."""
    if "<|channel|>" not in text:
        return text.strip()
    _, tag, final = text.rpartition(_HARMONY_FINAL)
    if not tag:
        raise UpstreamError("the guard's answer ends within its reasoning; it may need more max_answer_tokens")
    return _HARMONY_END.sub("", final.strip()).strip()


def read_object(text: str) -> dict[str, Any]:  # Any: JSON values
    """Read an answer that is one JSON object, perhaps in a code fence.

    Raises:
        UpstreamError: It is something else, or a key is there twice.
    """
    fenced = _FENCED.match(text.strip())
    try:
        found = json.loads(fenced[1] if fenced else text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise UpstreamError("the guard's answer is not one JSON object") from None
    if not isinstance(found, dict):
        raise UpstreamError("the guard's answer is not one JSON object")
    return found


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_lines(text: str, names: Iterable[str]) -> dict[str, str]:
    """Read an answer of lines `Name: value`, each name at most once, in any order, and nothing else.

    Args:
        text: The answer.
        names: Known names; case and surrounding white space do not count.

    Returns:
        Values by name as given, without surrounding white space.

    Raises:
        UpstreamError: A line has another form, an unknown name, or a name that was there before.
    """
    known = {name.lower(): name for name in names}
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, colon, value = line.strip().strip('"').partition(":")
        key = known.get(name.strip().lower())
        if not colon or key is None:
            raise UpstreamError(f"the guard's answer has a line that is none of {', '.join(known.values())}")
        if key in found:
            raise UpstreamError(f"the guard's answer has two {key} lines")
        found[key] = value.strip()
    return found


def named_rules(names: Iterable[str], aliases: Mapping[str, GuardRule]) -> list[GuardRule]:
    """Return the rules that an answer names.

    Args:
        names: As the guard wrote them.
        aliases: The rules by all names they go by in the prompt, in lower case.

    Raises:
        UpstreamError: A name is that of no rule.
    """
    found: dict[str, GuardRule] = {}
    num_unknown = 0
    for name in names:
        rule = aliases.get(" ".join(name.lower().split()).rstrip("."))
        if rule is None:
            num_unknown += 1
        else:
            found[rule.id] = rule
    if num_unknown:
        raise UpstreamError(f"the guard's answer names {num_unknown} rules that it was not asked about")
    return list(found.values())


def opinions_of(
    violated: Iterable[GuardRule], rules: Sequence[GuardRule], *, explanation: str | None = None
) -> list[RuleOpinion]:
    """Return an opinion on each rule, from those that are violated. They share what the guard says in explanation."""
    ids = {rule.id for rule in violated}
    return [
        RuleOpinion(rule.id, rule.id in ids, explanation=shortened(explanation) if rule.id in ids else None)
        for rule in rules
    ]


def shortened(explanation: str | None) -> str | None:
    """Return an explanation of bounded length; None if it says nothing."""
    text = (explanation or "").strip()
    return text[:_MAX_EXPLANATION_CHARS] or None


def yes_probability(logprobs: Mapping[str, float], *, yes: Sequence[str], no: Sequence[str]) -> float:
    """Return the probability of yes against no at a token, from the likeliest alternatives there.

    Args:
        logprobs: Log probability by token; tokens that differ in case or white space only are added up.
        yes: Words that mean yes, in lower case.
        no: Words that mean no.

    Raises:
        UpstreamError: Neither is among them.
    """
    sums = {True: 0.0, False: 0.0}
    for token, value in logprobs.items():
        word = token.strip(" \t\r\n\u2581\u0120").lower()
        if word in yes or word in no:
            sums[word in yes] += math.exp(min(value, 0.0))
    total = sums[True] + sums[False]
    if not total > 0.0:
        raise UpstreamError("the guard's endpoint gave no probability of yes or no; it must return logprobs")
    return sums[True] / total
