"""Statements about groups: contempt, neutral remarks, and words against contempt."""

from random import Random

from streamward.schema import Category, RiskLevel
from streamward.train.synthesize.lexicon import Lexicon
from streamward.train.synthesize.requests import roughen
from streamward.train.synthesize.rows import SyntheticResponse, SyntheticRow, some

_ANSWERED = 0.25


def statement(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Say something about a group, as a text of its own or as an answer to a harmless question."""
    words = lexicon.statements
    if not words.groups:
        return None
    group = rng.choice(words.groups)
    is_harmful = rng.random() < 0.5
    frames = words.derogatory if is_harmful else rng.choice((words.neutral, words.counter))
    sentences = [frame.format(group=group) for frame in some(rng, frames, most=2)]
    text = lexicon.space.join(each[:1].upper() + each[1:] for each in sentences)
    level = RiskLevel.UNSAFE if is_harmful else RiskLevel.SAFE
    categories = (Category.UNETHICAL,) if is_harmful else ()
    pair, topic = f"statement {group}", "group"
    if not words.asks or rng.random() >= _ANSWERED:
        return SyntheticRow(lexicon.language, "statement", topic, pair, roughen(text, rng), level, categories)
    ask = rng.choice(words.asks).format(group=group)
    row = SyntheticRow(lexicon.language, "statement", topic, pair, ask, RiskLevel.SAFE)
    return row.answered(SyntheticResponse(text, level, unsafe_start=0 if is_harmful else None, categories=categories))
