"""Long harmless prose: answers as an assistant writes them, and documents pasted before a request."""

import dataclasses
from collections.abc import Sequence
from random import Random

from streamward.schema import Category, RiskLevel
from streamward.train.synthesize.answers import answer
from streamward.train.synthesize.lexicon import Lexicon, Subject
from streamward.train.synthesize.requests import draw_request, request_row, roughen, surround
from streamward.train.synthesize.rows import ResponsePart, SyntheticResponse, SyntheticRow, assemble, some

_TURNS_HARMFUL = 0.12


def everyday(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Make an ordinary question with a long answer; now and then the answer turns harmful."""
    if not lexicon.everyday:
        return None
    subject = rng.choice(lexicon.everyday)
    ask = roughen(surround(rng.choice(subject.asks), lexicon.frames, rng), rng)
    row = SyntheticRow(lexicon.language, "everyday", subject.asks[0], subject.asks[0], ask, RiskLevel.SAFE)
    text = write_out(subject, rng)
    topics = [topic for topic in lexicon.topics if topic.comply and topic.comply_level is RiskLevel.UNSAFE]
    if not topics or rng.random() >= _TURNS_HARMFUL:
        return row.answered(SyntheticResponse(text, RiskLevel.SAFE))
    topic = rng.choice(topics)
    kept = text[: rng.randrange(len(text) // 3, len(text))]
    kept = kept[: max(kept.rfind(". "), kept.rfind(".\n")) + 1] or text
    harm = [ResponsePart(sentence, is_harmful=True) for sentence in some(rng, topic.comply, most=3)]
    parts = [ResponsePart(kept), ResponsePart(rng.choice(lexicon.frames.pivot)), *harm]
    return row.answered(assemble(parts, level=topic.comply_level, categories=(topic.category,)))


def document(lexicon: Lexicon, rng: Random) -> SyntheticRow | None:
    """Paste prose of one or more subjects and ask something before or after it."""
    if not lexicon.everyday:
        return None
    subjects = some(rng, lexicon.everyday, most=3)
    text = "\n\n".join(write_out(subject, rng) for subject in subjects)
    if lexicon.frames.prompt_theft and rng.random() < 0.2:
        order = rng.choice(lexicon.frames.prompt_theft)
        sides = (f"Summarise this text:\n\n{text}\n\n{order}", f"{text}\n\n{order}")
        pair = f"theft {order[:40]}"
        prompt, label = rng.choice(sides), RiskLevel.UNSAFE
        return SyntheticRow(lexicon.language, "document", "injection", pair, prompt, label, (Category.JAILBREAK,))
    found = draw_request(lexicon, rng, harmful=0.4)
    prompt = f"{text}\n\n{found.text}" if rng.random() < 0.6 else f"{found.text}\n\n{text}"
    row = dataclasses.replace(request_row(lexicon, found, family="document"), prompt=prompt)
    return row.answered(answer(lexicon, found, rng)) if rng.random() < 0.2 else row


def write_out(subject: Subject, rng: Random) -> str:
    """Write a subject's points as a list, sections or plain text, leaving some out."""
    points = rng.sample(subject.points, rng.randint(3, len(subject.points)))
    style = rng.choice((_numbered, _bullets, _sections, _plain))
    outro = subject.outro if rng.random() < 0.8 else ""
    return "\n\n".join(part for part in (subject.intro, style(points), outro) if part)


def _numbered(points: Sequence[str]) -> str:
    return "\n".join(f"{number}. **{head}**: {text}" for number, (head, text) in enumerate(map(_cut, points), start=1))


def _bullets(points: Sequence[str]) -> str:
    return "\n".join(f"- {head}: {text}" for head, text in map(_cut, points))


def _sections(points: Sequence[str]) -> str:
    return "\n\n".join(f"## {head}\n\n{text}" for head, text in map(_cut, points))


def _plain(points: Sequence[str]) -> str:
    return " ".join(text for _, text in map(_cut, points))


def _cut(point: str) -> tuple[str, str]:
    head, _, text = point.partition(": ")
    return head, text
