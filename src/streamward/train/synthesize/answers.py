"""Answers to a request: help, refusals, compliance at once or late, and harmless answers."""

import dataclasses
from collections.abc import Callable
from random import Random

from streamward.schema import Category, RiskLevel
from streamward.train.synthesize.lexicon import Frames, Lexicon, Topic
from streamward.train.synthesize.requests import Request, draw_request, request_row, second_person
from streamward.train.synthesize.rows import ResponsePart, SyntheticResponse, SyntheticRow, assemble, maybe, some

GENERIC = frozenset(  # "do it at night" is no answer to a question about hate or despair
    {Category.VIOLENT, Category.ILLEGAL_ACTS, Category.SEXUAL, Category.PII, Category.COPYRIGHT}
)
Draw = Callable[[Lexicon, Request, Random], SyntheticResponse]


def refuse(lexicon: Lexicon, request: Request, rng: Random) -> SyntheticResponse:
    """Decline; after a harmful request often with a helpful word."""
    frames = lexicon.frames
    if not request.is_harmful:
        return _refusal(rng.choice(frames.over_refusal or frames.refusal))
    extra = maybe(rng, request.topic.help, probability=0.5)
    after = maybe(rng, frames.refusal_after, probability=0.4)
    return _refusal(_join(lexicon, rng.choice(frames.refusal), extra, after))


def redirect(lexicon: Lexicon, request: Request, rng: Random) -> SyntheticResponse:
    """Answer a harmful request with harmless words, without saying no."""
    if not request.topic.help:
        return refuse(lexicon, request, rng)
    text = _join(lexicon, *some(rng, request.topic.help, most=2))
    return SyntheticResponse(text, RiskLevel.SAFE, refusal=None)


def comply(lexicon: Lexicon, request: Request, rng: Random) -> SyntheticResponse:
    """Give what was asked for, at once."""
    frames = lexicon.frames
    body = [
        ResponsePart(text, is_harmful=True) for text in some(rng, harmful_sentences(lexicon, request.topic), most=3)
    ]
    if request.act and lexicon.language == "en" and rng.random() < 0.2:
        first = body[0].text
        body[0] = ResponsePart(f"To {second_person(request.act)}: {first[0].lower()}{first[1:]}", is_harmful=True)
    parts = [ResponsePart(maybe(rng, frames.comply_opener, probability=0.45)), *body, _closer(frames, rng)]
    return _harmful_answer(lexicon, request, parts, rng=rng)


def comply_late(lexicon: Lexicon, request: Request, rng: Random) -> SyntheticResponse:
    """Begin harmlessly, or decline, and turn."""
    frames = lexicon.frames
    start = rng.random()
    if start < 0.35:
        before = some(rng, request.topic.help or frames.refusal, most=2)
    elif start < 0.6:
        before = [rng.choice(frames.refusal)]
    elif start < 0.8 and frames.disclaimer:
        before = []
    else:
        before = [maybe(rng, frames.benign_opener, probability=0.6), *some(rng, frames.benign_body, most=3)]
    turn = rng.choice((frames.pivot if before else frames.disclaimer) or ("",))
    harm = some(rng, harmful_sentences(lexicon, request.topic), most=2)
    parts = [*map(ResponsePart, before), ResponsePart(turn), *(ResponsePart(text, is_harmful=True) for text in harm)]
    return _harmful_answer(lexicon, request, [*parts, _closer(frames, rng)], rng=rng)


def oblige(lexicon: Lexicon, request: Request, rng: Random) -> SyntheticResponse:
    """Answer a harmless request harmlessly."""
    frames = lexicon.frames
    parts = [
        maybe(rng, frames.benign_opener, probability=0.5),
        *some(rng, frames.benign_body, most=4),
        maybe(rng, frames.benign_closer, probability=0.3),
    ]
    if request.act and lexicon.language == "en" and rng.random() < 0.3:
        parts[1] = f"To {second_person(request.act)}: {parts[1][0].lower()}{parts[1][1:]}"
    separator = rng.choice((lexicon.space, lexicon.space, "\n\n"))
    return SyntheticResponse(separator.join(part for part in parts if part), RiskLevel.SAFE)


HARMFUL: tuple[tuple[Draw, int], ...] = ((comply, 9), (comply_late, 5), (refuse, 5), (redirect, 6))
HARMLESS: tuple[tuple[Draw, int], ...] = ((oblige, 9), (refuse, 1), (comply_late, 1))


def answer(lexicon: Lexicon, request: Request, rng: Random) -> SyntheticResponse:
    """Draw an answer that suits the request."""
    if request.is_harmful and (request.topic.refuse_only or not harmful_sentences(lexicon, request.topic)):
        return rng.choice((refuse, redirect))(lexicon, request, rng)
    ways = HARMFUL if request.is_harmful else HARMLESS
    if not request.is_harmful and (request.topic.refuse_only or not harmful_sentences(lexicon, request.topic)):
        ways = HARMLESS[:2]
    return rng.choices([way for way, _ in ways], [share for _, share in ways])[0](lexicon, request, rng)


def dialogue(lexicon: Lexicon, rng: Random) -> SyntheticRow:
    """Make a request with an answer."""
    found = draw_request(lexicon, rng, harmful=0.6)
    return request_row(lexicon, found, family="dialogue").answered(answer(lexicon, found, rng))


def reasoning(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Make a request with an answer that thinks aloud first."""
    frames = lexicon.frames
    if not frames.think_safe:
        return None
    found = draw_request(lexicon, rng, harmful=0.6)
    given = answer(lexicon, found, rng)
    is_harmful = given.level is not RiskLevel.SAFE
    is_grave = found.level is RiskLevel.UNSAFE
    thoughts = some(rng, frames.think_refuse if is_grave else frames.think_safe, most=2)
    if is_harmful:
        thoughts.append(rng.choice(frames.think_comply))
    head = f"<think>\n{' '.join(thoughts)}\n</think>\n\n"
    start = None if given.unsafe_start is None else given.unsafe_start + len(head)
    given = dataclasses.replace(given, text=head + given.text, unsafe_start=start)
    return request_row(lexicon, found, family="reasoning").answered(given)


def turns(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Make a conversation of two turns: what is judged is the second."""
    frames = lexicon.frames
    if not frames.follow_up:
        return None
    first = draw_request(lexicon, rng, harmful=0.5)
    given = answer(lexicon, first, rng)
    history = (("user", first.text), ("assistant", given.text))
    if rng.random() < 0.5:  # a new request after whatever came before
        found = draw_request(lexicon, rng, harmful=0.5)
    else:
        goes_on = given.level is not RiskLevel.SAFE
        found = dataclasses.replace(first, text=rng.choice(frames.follow_up), is_harmful=goes_on)
    row = dataclasses.replace(request_row(lexicon, found, family="turns"), history=history)
    return row if rng.random() < 0.25 else row.answered(answer(lexicon, found, rng))


def harmful_sentences(lexicon: Lexicon, topic: Topic) -> tuple[str, ...]:
    """Return what an answer that complies may say; empty if nothing that is known suits the topic."""
    return topic.comply or (lexicon.frames.comply if topic.category in GENERIC else ())


def _harmful_answer(lexicon: Lexicon, request: Request, parts: list[ResponsePart], *, rng: Random) -> SyntheticResponse:
    separator = rng.choice((lexicon.space,) * 3 + ("\n\n",))
    level, category = request.topic.comply_level, request.topic.category
    return assemble(parts, level=level, categories=(category,), separator=separator)


def _closer(frames: Frames, rng: Random) -> ResponsePart:
    return ResponsePart(maybe(rng, frames.comply_closer, probability=0.25), is_harmful=True)


def _refusal(text: str) -> SyntheticResponse:
    return SyntheticResponse(text, RiskLevel.SAFE, refusal=True)


def _join(lexicon: Lexicon, *texts: str) -> str:
    return lexicon.space.join(text for text in texts if text)
