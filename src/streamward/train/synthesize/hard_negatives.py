"""Harmless requests that sound dangerous, with harmful ones of the same words among them."""

from random import Random

from streamward.schema import RiskLevel
from streamward.train.synthesize.lexicon import Lexicon, Topic
from streamward.train.synthesize.replies import has_replies, long_answer
from streamward.train.synthesize.requests import Request
from streamward.train.synthesize.rows import SyntheticResponse, SyntheticRow, some

_WORD_ANSWERED, _TERM_ANSWERED = 0.4, 0.15


def hard_negative(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Draw a word with an object, a term of knowledge, or a whole question."""
    words = lexicon.hard_negatives
    if not words.frames_verb:
        return None
    kind = rng.choices(("word", "term", "question"), (6, 3, 2))[0]
    if kind == "word":
        return _word(lexicon, rng)
    if kind == "term":
        term = rng.choice(words.terms)
        prompt, answers = rng.choice(words.frames_term).format(term=term), words.term_answer
    else:
        term = prompt = rng.choice(words.questions)
        answers = words.question_answer
    row = _row(lexicon, prompt, pair=term, topic=kind)
    if rng.random() >= _TERM_ANSWERED:
        return row
    return row.answered(SyntheticResponse(" ".join(some(rng, answers, most=2)), RiskLevel.SAFE))


def _word(lexicon: Lexicon, rng: Random) -> SyntheticRow:
    words = lexicon.hard_negatives
    is_verb = rng.random() < 0.85
    word = rng.choice(words.verbs if is_verb else words.nouns)
    is_harmful = rng.random() < 0.35
    thing = rng.choice(word.harm if is_harmful else word.safe)
    frame = rng.choice(words.frames_verb if is_verb else words.frames_noun)
    prompt = frame.format(verb=word.word, object=thing)
    level, categories = (RiskLevel.UNSAFE, (word.category,)) if is_harmful else (RiskLevel.SAFE, ())
    row = SyntheticRow(lexicon.language, "hard_negative", "word", word.word, prompt, level, categories)
    if rng.random() >= _WORD_ANSWERED or not (is_verb and has_replies(lexicon)):
        return row
    topic = Topic(name="word", category=word.category)
    asked = Request(prompt, is_harmful, topic, word.word, act=f"{word.word} {thing}")
    return row.answered(long_answer(lexicon, asked, rng))


def _row(lexicon: Lexicon, prompt: str, *, pair: str, topic: str) -> SyntheticRow:
    return SyntheticRow(lexicon.language, "hard_negative", topic, pair, prompt, RiskLevel.SAFE)
