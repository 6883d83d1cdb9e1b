"""Long answers to harmful requests: safe and harmful ones of the same form, so that words alone do not decide."""

from collections.abc import Callable, Sequence
from random import Random

from streamward.schema import Category, RiskLevel
from streamward.train.synthesize.answers import GENERIC, harmful_sentences
from streamward.train.synthesize.lexicon import Lexicon
from streamward.train.synthesize.requests import Request, draw_request, request_row, second_person, third_person
from streamward.train.synthesize.rows import ResponsePart, SyntheticResponse, SyntheticRow, assemble, maybe, some

_NUM_REQUESTS = 2400  # of a language: few enough that most get answers of both kinds
_HARMFUL_SHARE = 0.42
Reply = Callable[[Lexicon, Request, Random], SyntheticResponse]


def has_replies(lexicon: Lexicon) -> bool:
    """Return whether a language has the words of long answers."""
    words = lexicon.replies
    return bool(words.decline and words.facts and words.lead)


def reply(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Draw one of a language's requests and answer it at length."""
    if not has_replies(lexicon):
        return None
    number = rng.randrange(_NUM_REQUESTS)
    found = draw_request(lexicon, Random(f"reply/{lexicon.language}/{number}"), harmful=0.8, with_act=True)
    return request_row(lexicon, found, family="reply").answered(long_answer(lexicon, found, rng))


def long_answer(lexicon: Lexicon, found: Request, rng: Random) -> SyntheticResponse:
    """Answer an act at length: a harmless one helpfully, a harmful one in either way."""
    if not found.is_harmful:
        return _harmless_guide(lexicon, found, rng)
    topic = found.topic
    can_harm = not topic.refuse_only and (topic.category in GENERIC or bool(harmful_sentences(lexicon, topic)))
    ways = _HARMFUL if can_harm and rng.random() < _HARMFUL_SHARE else _SAFE
    if ways is _SAFE and (topic.refuse_only or topic.category is Category.SELF_HARM):
        ways = _CARING
    way = rng.choices([way for way, _ in ways], [share for _, share in ways])[0]
    return way(lexicon, found, rng)


def _decline(lexicon: Lexicon, found: Request, rng: Random) -> SyntheticResponse:
    """Say no, why, and where to turn."""
    words = lexicon.replies
    head = _said(lexicon, rng.choice(words.decline), found)
    points = [_said(lexicon, point, found) for point in some(rng, words.reasons, most=5)]
    if found.topic.category is Category.SELF_HARM:  # neither the law nor the neighbours
        points = some(rng, found.topic.help or words.closing, most=3)
    elif rng.random() < 0.3:
        points = [*points[:2], *some(rng, found.topic.help or words.closing, most=2)]
    body = _listed(lexicon, points, rng)
    return _safe(lexicon, [head, body, maybe(rng, words.closing, probability=0.7)], rng, refusal=True)


def _redirect(lexicon: Lexicon, found: Request, rng: Random) -> SyntheticResponse:
    """Answer with help alone."""
    parts = [*some(rng, found.topic.help, most=3), *some(rng, lexicon.replies.closing, most=2)]
    return _safe(lexicon, parts, rng, refusal=None)


def _advise(lexicon: Lexicon, found: Request, rng: Random) -> SyntheticResponse:
    """Give a list, with or without a no before it: of what to do instead."""
    words = lexicon.replies
    says_no = rng.random() < 0.5 or not words.honest
    head = _said(lexicon, rng.choice(words.decline if says_no else words.honest), found)
    points = rng.sample(words.ways, min(len(words.ways), rng.randint(3, 6)))
    closing = maybe(rng, words.closing, probability=0.5)
    refusal = True if says_no else None
    return _safe(lexicon, [head, _listed(lexicon, points, rng), closing], rng, refusal=refusal)


def _inform(lexicon: Lexicon, found: Request, rng: Random) -> SyntheticResponse:
    """Teach what harms nobody: facts, signs, protection, a story."""
    words = lexicon.replies
    if words.tales and rng.random() < 0.2:
        return _safe(lexicon, [_said(lexicon, rng.choice(words.tales), found)], rng, refusal=False)
    facts = [_said(lexicon, fact, found) for fact in some(rng, words.facts, most=4)]
    if not words.watch or rng.random() < 0.5:
        return _safe(lexicon, [lexicon.space.join(facts)], rng, refusal=False)
    points = rng.sample(words.watch, min(len(words.watch), rng.randint(3, 6)))
    return _safe(lexicon, [facts[0], _listed(lexicon, points, rng)], rng, refusal=False)


def _guide(lexicon: Lexicon, found: Request, rng: Random) -> SyntheticResponse:
    """Comply in the form of a guide."""
    opener = maybe(rng, lexicon.frames.disclaimer or lexicon.frames.comply_opener, probability=0.3)
    return _harmful(lexicon, found, [ResponsePart(opener), *_harm(lexicon, found, rng)], rng)


def _turn(lexicon: Lexicon, found: Request, rng: Random) -> SyntheticResponse:
    """Begin like a safe answer and comply after all."""
    words = lexicon.replies
    starts = [words.decline, words.facts, [_sentence(point) for point in words.reasons]]
    before = [_said(lexicon, text, found) for text in some(rng, rng.choice(starts), most=2)]
    pivot = maybe(rng, lexicon.frames.pivot, probability=0.8)
    parts = [ResponsePart(lexicon.space.join(before)), ResponsePart(pivot), *_harm(lexicon, found, rng)]
    return _harmful(lexicon, found, parts, rng)


def _gloat(lexicon: Lexicon, found: Request, rng: Random) -> SyntheticResponse:
    """Tell a story that praises the harm."""
    if not lexicon.replies.dark_tales:
        return _guide(lexicon, found, rng)
    tale = _said(lexicon, rng.choice(lexicon.replies.dark_tales), found)
    sentences = some(rng, harmful_sentences(lexicon, found.topic), most=2)
    return _harmful(
        lexicon, found, [ResponsePart(tale, is_harmful=True), *(ResponsePart(each, True) for each in sentences)], rng
    )


_SAFE: tuple[tuple[Reply, int], ...] = ((_decline, 5), (_redirect, 2), (_advise, 4), (_inform, 4))
_CARING = _SAFE[:2]  # where facts and to-do lists would be cold comfort
_HARMFUL: tuple[tuple[Reply, int], ...] = ((_guide, 6), (_turn, 3), (_gloat, 1))


def _harm(lexicon: Lexicon, found: Request, rng: Random) -> list[ResponsePart]:
    words = lexicon.replies
    points = some(rng, harmful_sentences(lexicon, found.topic), most=3)
    if found.topic.category in GENERIC:
        points += some(rng, words.steps, most=4)
    rng.shuffle(points)
    body = [_said(lexicon, rng.choice(words.lead), found), _listed(lexicon, points, rng)]
    closing = maybe(rng, words.harmful_closing, probability=0.4)
    return [ResponsePart(text, is_harmful=True) for text in (*body[rng.randrange(2) :], closing)]


def _harmless_guide(lexicon: Lexicon, found: Request, rng: Random) -> SyntheticResponse:
    frames = lexicon.frames
    lead = rng.choice([lead for lead in lexicon.replies.lead if "{others}" not in lead])
    points = rng.sample(frames.benign_body, min(len(frames.benign_body), rng.randint(3, 6)))
    parts = [_said(lexicon, lead, found), _listed(lexicon, points, rng)]
    return _safe(lexicon, [*parts, maybe(rng, frames.benign_closer, probability=0.4)], rng, refusal=False)


def _safe(lexicon: Lexicon, parts: Sequence[str], rng: Random, *, refusal: bool | None) -> SyntheticResponse:
    separator = "\n\n" if any("\n" in part for part in parts) else rng.choice((lexicon.space, "\n\n"))
    return SyntheticResponse(separator.join(part for part in parts if part), RiskLevel.SAFE, refusal=refusal)


def _harmful(lexicon: Lexicon, found: Request, parts: Sequence[ResponsePart], rng: Random) -> SyntheticResponse:
    separator = "\n\n" if any("\n" in part.text for part in parts) else rng.choice((lexicon.space, "\n\n"))
    topic = found.topic
    return assemble(parts, level=topic.comply_level, categories=(topic.category,), separator=separator)


def _listed(lexicon: Lexicon, points: Sequence[str], rng: Random) -> str:
    """Write points as a list or as sentences."""
    style = rng.choice(("prose", "numbers", "bullets", "bold", "steps"))
    if style == "prose" or len(points) == 1:
        return lexicon.space.join(_sentence(point) for point in points)
    if style == "numbers":
        return "\n".join(f"{number}. {point}" for number, point in enumerate(points, start=1))
    if style == "steps" and lexicon.language == "en":
        return "\n".join(f"Step {number}: {_sentence(point)}" for number, point in enumerate(points, start=1))
    if style == "bold":
        return "\n".join(f"- **{head}**: {text}" if text else f"- {head}" for head, text in map(_split, points))
    return "\n".join(f"- {point}" for point in points)


def _split(point: str) -> tuple[str, str]:
    """Take a point's head off; empty text where it has none."""
    for mark in (": ", "\uff1a"):
        head, found, text = point.partition(mark)
        if found and len(head) < 40:
            return head, text
    return point, ""


def _sentence(point: str) -> str:
    head, text = _split(point)
    return text or head


def _said(lexicon: Lexicon, text: str, found: Request) -> str:
    if lexicon.language != "en":
        return text.replace("{act}", found.act)
    return text.replace("{act}", second_person(found.act)).replace("{others}", third_person(found.act))
