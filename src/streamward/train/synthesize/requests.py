"""Requests in words: the harmful or the harmless side of a contrastive pair, in the same frames."""

import dataclasses
import re
from dataclasses import dataclass
from random import Random

from streamward.schema import Category, RiskLevel
from streamward.train.synthesize.lexicon import Frames, Lexicon, Topic
from streamward.train.synthesize.rows import SyntheticRow, maybe

_SECOND_PERSON = {
    "my": "your", "me": "you", "i": "you", "i'm": "you're", "myself": "yourself", "our": "your", "us": "you",
    "we": "you", "mine": "yours", "am": "are",
}  # fmt: skip
_THIRD_PERSON = {
    "my": "their", "me": "them", "i": "they", "i'm": "they're", "myself": "themselves", "our": "their", "us": "them",
    "we": "they", "mine": "theirs", "am": "are",
}  # fmt: skip
_FIRST_PERSON = re.compile(r"\b(" + "|".join(sorted(_SECOND_PERSON, key=len, reverse=True)) + r")\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """A request and where it comes from.

    Attributes:
        act: The verb phrase it was framed from, if any.
        pair: Key of the contrastive pair, shared by both sides.
    """

    text: str
    is_harmful: bool
    topic: Topic
    pair: str
    act: str = ""

    @property
    def level(self) -> RiskLevel:
        """Its label."""
        return self.topic.level if self.is_harmful else RiskLevel.SAFE

    @property
    def categories(self) -> tuple[Category, ...]:
        """Kinds of harm; empty if it is harmless."""
        return (self.topic.category,) if self.is_harmful else ()


def draw_request(lexicon: Lexicon, rng: Random, *, harmful: float = 0.5, with_act: bool = False) -> Request:
    """Draw a topic, a pair, a side and a frame.

    Args:
        lexicon: Lexicon of the language.
        rng: Source of randomness.
        harmful: How often the harmful side is taken.
        with_act: Draw only pairs of verb phrases.
    """
    topics = [topic for topic in lexicon.topics if topic.acts or not with_act]
    topic = rng.choice(topics)
    kinds = [("acts", 6), ("things", 3), ("asks", 3)]
    usable = [(name, share) for name, share in kinds if getattr(topic, name) and (name == "acts" or not with_act)]
    kind = rng.choices([name for name, _ in usable], [share for _, share in usable])[0]
    pairs = getattr(topic, kind)
    index = rng.randrange(len(pairs))
    is_harmful = rng.random() < harmful
    core = pairs[index].harmful if is_harmful else pairs[index].harmless
    text = core if kind == "asks" else _frame(core, kind, lexicon.frames, rng)
    pair = f"{topic.name}/{kind}{index}"
    return Request(roughen(text, rng), is_harmful, topic, pair, core if kind == "acts" else "")


def request_row(lexicon: Lexicon, request: Request, *, family: str) -> SyntheticRow:
    """Return a row with the request as its prompt."""
    return SyntheticRow(
        lexicon.language,
        family,
        request.topic.name,
        request.pair,
        request.text,
        request.level,
        request.categories,
    )


def request(lexicon: Lexicon, rng: Random) -> SyntheticRow:
    """Make a bare request."""
    return request_row(lexicon, draw_request(lexicon, rng), family="request")


def short_request(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Make a short wish or order, as people type it who want help at once."""
    frames = lexicon.frames.short_request
    if not frames:
        return None
    found = draw_request(lexicon, rng, with_act=True)
    row = request_row(lexicon, found, family="short_request")
    return dataclasses.replace(row, prompt=roughen(rng.choice(frames).format(act=found.act), rng))


def context(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Put a harmful act into a question that asks about law, reasons or protection, or into fiction."""
    found = draw_request(lexicon, rng, harmful=1.0, with_act=True)
    is_safe = rng.random() < 0.75
    frames = lexicon.frames.safe_context if is_safe else lexicon.frames.controversial_context
    if not frames or found.topic.refuse_only:
        return None
    return SyntheticRow(
        lexicon.language,
        "context",
        found.topic.name,
        found.pair,
        rng.choice(frames).format(act=found.act),
        RiskLevel.SAFE if is_safe else RiskLevel.CONTROVERSIAL,
        () if is_safe else found.categories,
    )


def second_person(text: str) -> str:
    """Turn an English phrase from the speaker's view to the listener's: `my dog` becomes `your dog`."""
    return _FIRST_PERSON.sub(lambda found: _SECOND_PERSON[found[0].lower()], text)


def third_person(text: str) -> str:
    """Turn an English phrase from the speaker's view to that of others: `my dog` becomes `their dog`."""
    return _FIRST_PERSON.sub(lambda found: _THIRD_PERSON[found[0].lower()], text)


def _frame(core: str, kind: str, frames: Frames, rng: Random) -> str:
    frame = rng.choice(frames.act if kind == "acts" else frames.thing or ("{thing}",))
    return surround(frame.format(act=core, thing=core), frames, rng)


def surround(text: str, frames: Frames, rng: Random) -> str:
    """Now and then put a greeting before a request or a wish after it."""
    return maybe(rng, frames.before, probability=0.12) + text + maybe(rng, frames.after, probability=0.15)


def roughen(text: str, rng: Random) -> str:
    """Make a request look typed: lower case, missing marks, a slip of the finger."""
    if rng.random() < 0.2:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.rstrip("?.!")
    if rng.random() < 0.05 and len(text) > 20:
        at = rng.randrange(5, len(text) - 5)
        text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:1].upper() + text[1:] if rng.random() < 0.7 else text
