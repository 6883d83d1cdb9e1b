"""Counterfactual variants of training rows: other letter case, end mark or connective, and the same label.

A guard that sees such variants learns that they say nothing about harm (counterfactual augmentation; Kaushik et al.,
arXiv 1909.12434). Marks of where a response turns harmful move with its text.
"""

import dataclasses
import random
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamward.data.cues import sentences
from streamward.data.jsonl import Sample
from streamward.schema import Span

CONNECTIVES: Mapping[str, Sequence[str]] = tomllib.loads(
    (Path(__file__).parent / "connectives.toml").read_text(encoding="utf-8")
)
"""Words that join a sentence to the one before, by language."""

_END_MARKS = ".!?;\u2026\u3002\uff01\uff1f\u0964\u061f"


def vary(sample: Sample, rng: random.Random) -> Sample:
    """Return the row with another connective in its response, or its prompt in another letter case or end mark.

    Rows in which nothing can be changed come back as they are.
    """
    if sample.response is not None and sample.response_label is not None:
        return _with_connective(sample, rng)
    return dataclasses.replace(sample, prompt=_recased(sample.prompt, rng)) if sample.spans is None else sample


def _recased(text: str, rng: random.Random) -> str:
    bare = text.rstrip(_END_MARKS) or text  # a prompt of nothing but marks keeps them
    match rng.randrange(5):
        case 0:
            return text.upper()
        case 1:
            return text.lower()
        case 2:
            return bare
        case 3:
            return bare.lower()
        case _:
            return bare + rng.choice(("!", "!!!", "?!", "...", "."))


def _with_connective(sample: Sample, rng: random.Random) -> Sample:
    """Let one sentence behind the first open with a connective of the row's language."""
    assert sample.response is not None
    places = [start for start, text in sentences(sample.response) if start and text[:1].isalpha()]
    known = CONNECTIVES.get(sample.language)
    if not places or known is None:
        return sample
    place, connective = rng.choice(places), rng.choice(known)
    opening = sample.response[place]
    if connective.endswith(" ") and sample.language != "de" and opening != "I":  # German nouns keep their capital
        opening = opening.lower() if len(opening.lower()) == 1 else opening

    def moved(index: int) -> int:
        return index + len(connective) if index > place else index

    return dataclasses.replace(
        sample,
        response=sample.response[:place] + connective + opening + sample.response[place + 1 :],
        unsafe_start=None if sample.unsafe_start is None else moved(sample.unsafe_start),
        spans=None
        if sample.spans is None
        else tuple(Span(moved(span.start), moved(span.end)) for span in sample.spans),
    )
