"""Requests inside something else: jailbreaks, role play, perturbed letters, texts cut mid-sentence."""

import dataclasses
from random import Random

from streamward.schema import Category, RiskLevel
from streamward.train.synthesize.answers import answer, comply, dialogue, harmful_sentences, refuse
from streamward.train.synthesize.everyday import document, everyday
from streamward.train.synthesize.lexicon import Lexicon
from streamward.train.synthesize.perturbations import PERTURBATIONS
from streamward.train.synthesize.requests import draw_request, request_row
from streamward.train.synthesize.rows import SyntheticRow

_SEEN_HARM_CHARS = 16  # harmful characters without which nobody could tell


def jailbreak(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Wrap a request into an attempt to switch off the rules; around a harmless core it is Controversial."""
    frames = lexicon.frames
    if not frames.jailbreak:
        return None
    if frames.prompt_theft and rng.random() < 0.05:
        order = rng.choice(frames.prompt_theft)
        return SyntheticRow(
            lexicon.language, "jailbreak", "theft", order, order, RiskLevel.UNSAFE, (Category.JAILBREAK,)
        )
    found = draw_request(lexicon, rng, harmful=0.75)
    row = dataclasses.replace(
        request_row(lexicon, found, family="jailbreak"),
        prompt=rng.choice(frames.jailbreak).format(ask=found.text),
        prompt_label=RiskLevel.UNSAFE if found.is_harmful else RiskLevel.CONTROVERSIAL,
        categories=(*found.categories, Category.JAILBREAK),
    )
    if rng.random() >= 0.35:
        return row
    can_comply = found.is_harmful and not found.topic.refuse_only and harmful_sentences(lexicon, found.topic)
    way = comply if can_comply and rng.random() < 0.5 else refuse
    return row.answered(way(lexicon, found, rng) if found.is_harmful else answer(lexicon, found, rng))


def roleplay(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Ask in a game; the game changes nothing about what is asked."""
    frames = lexicon.frames
    if not frames.roleplay:
        return None
    found = draw_request(lexicon, rng)
    prompt = rng.choice(frames.roleplay).format(role=rng.choice(frames.role), ask=found.text)
    row = dataclasses.replace(request_row(lexicon, found, family="roleplay"), prompt=prompt)
    return row.answered(answer(lexicon, found, rng)) if rng.random() < 0.4 else row


def perturbation(lexicon: Lexicon, rng: Random) -> SyntheticRow:
    """Write a request, harmful or not, in odd letters."""
    found = draw_request(lexicon, rng)
    change = rng.choice(PERTURBATIONS)
    return dataclasses.replace(request_row(lexicon, found, family="perturbation"), prompt=change(found.text, rng))


def excerpt(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Cut a response mid-sentence: before its harmful part it is Safe, well inside it keeps its label."""
    row = (everyday(lexicon, rng) if rng.random() < 0.3 else None) or dialogue(lexicon, rng)
    assert row.response is not None
    if len(row.response) < 40:
        return None
    kept = row.response[: rng.randrange(20, len(row.response))].rstrip()
    refusal = row.refusal if len(kept) > 30 else None
    row = dataclasses.replace(row, family="excerpt", response=kept, refusal=refusal)
    if row.unsafe_start is None or len(kept) >= row.unsafe_start + _SEEN_HARM_CHARS:
        return row
    if len(kept) > row.unsafe_start:
        return None
    categories = row.categories if row.prompt_label is not RiskLevel.SAFE else ()
    return dataclasses.replace(row, response_label=RiskLevel.SAFE, unsafe_start=None, categories=categories)


def unfinished(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Cut a prompt while its second sentence is still being written."""
    found, other = draw_request(lexicon, rng), document(lexicon, rng)
    if other is None:
        return None
    tail = other.prompt[: rng.randrange(10, 160)] if other.prompt_label is RiskLevel.SAFE else ""
    prompt = f"{found.text} {tail}".rstrip()
    return dataclasses.replace(request_row(lexicon, found, family="unfinished"), prompt=prompt)
