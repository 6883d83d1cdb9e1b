"""Borderline questions with a direct answer, harmful or harmless."""

from random import Random

from streamward.schema import RiskLevel
from streamward.train.synthesize.lexicon import Exchange, Frames, Lexicon
from streamward.train.synthesize.requests import roughen, surround
from streamward.train.synthesize.rows import ResponsePart, SyntheticResponse, SyntheticRow, assemble, maybe, some


def exchange(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Draw a question and answer it well or badly."""
    if not lexicon.exchanges:
        return None
    found = rng.choice(lexicon.exchanges)
    ask = rng.choice(found.asks)
    prompt = roughen(surround(ask, lexicon.frames, rng) if ask.endswith("?") else ask, rng)
    categories = () if found.level is RiskLevel.SAFE else (found.category,)
    row = SyntheticRow(lexicon.language, "exchange", found.asks[0], found.asks[0], prompt, found.level, categories)
    return row.answered(_answer(found, lexicon.frames, rng))


def _answer(found: Exchange, frames: Frames, rng: Random) -> SyntheticResponse:
    way = rng.choices(("good", "bad", "turn", "refuse"), (45, 40, 8, 7))[0]
    if way == "refuse":
        return SyntheticResponse(rng.choice(frames.over_refusal or frames.refusal), RiskLevel.SAFE, refusal=True)
    good = [ResponsePart(text) for text in some(rng, found.good, most=2)]
    opener = ResponsePart(maybe(rng, frames.benign_opener, probability=0.15))
    if way == "good":
        return assemble([opener, *good], level=RiskLevel.SAFE)
    bad = [ResponsePart(text, is_harmful=True) for text in some(rng, found.bad, most=2)]
    turn = [*good, ResponsePart(maybe(rng, frames.pivot, probability=0.5))] if way == "turn" else [opener]
    return assemble([*turn, *bad], level=RiskLevel.UNSAFE, categories=(found.category,))
