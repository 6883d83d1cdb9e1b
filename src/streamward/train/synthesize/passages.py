"""Texts that ask for nothing: what people paste, post and tell."""

from random import Random

from streamward.schema import Category, RiskLevel
from streamward.train.synthesize.lexicon import Lexicon
from streamward.train.synthesize.rows import SyntheticRow, maybe, some


def passage(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Draw a text, or put one together from sentences of a topic's answers."""
    texts = lexicon.passages
    lead = maybe(rng, texts.lead, probability=0.3)
    kind = rng.choices(("safe", "unsafe", "controversial", "points", "topic"), (5, 5, 2, 2, 3))[0]
    if kind in ("points", "topic"):
        return _sentences(lexicon, rng, is_harmful=kind == "topic")
    found = getattr(texts, kind)
    if not found:
        return None
    number = rng.randrange(len(found))
    category, _, text = found[number].rpartition(" | ")
    prompt = f"{lead} {text}".lstrip()
    level = {"safe": RiskLevel.SAFE, "unsafe": RiskLevel.UNSAFE, "controversial": RiskLevel.CONTROVERSIAL}[kind]
    categories = (Category(category),) if category else ()
    return SyntheticRow(lexicon.language, "passage", kind, f"passage {kind}{number}", prompt, level, categories)


def _sentences(lexicon: Lexicon, rng: Random, *, is_harmful: bool) -> SyntheticRow | None:
    topic = rng.choice(lexicon.topics)
    sentences = topic.comply if is_harmful else topic.help
    if not sentences or topic.refuse_only:
        return None
    prompt = " ".join(some(rng, sentences, most=3))
    level = topic.comply_level if is_harmful else RiskLevel.SAFE
    categories = (topic.category,) if is_harmful else ()
    return SyntheticRow(lexicon.language, "passage", topic.name, f"passage {topic.name}", prompt, level, categories)
