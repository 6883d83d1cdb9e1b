"""Rows written by a model: pairs of requests guided by keywords of a topic, and answers to requests of ours.

What the model wrote is kept beside the output, so that an interrupted run pays for nothing twice. A model that refuses
is counted, and what it said is not used.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from tqdm import tqdm

from streamward.data.fingerprints import fingerprint
from streamward.errors import UpstreamError
from streamward.schema import RiskLevel
from streamward.train.synthesize.answers import harmful_sentences
from streamward.train.synthesize.config import WriterConfig
from streamward.train.synthesize.lexicon import Lexicon, Pair, Topic
from streamward.train.synthesize.requests import Request, draw_request, request_row
from streamward.train.synthesize.rows import SyntheticResponse, SyntheticRow

_INSTRUCTION = (
    "You help to train a content-safety classifier. You write short, realistic examples in the language asked for. "
    "Examples of harmful requests or answers must hold no usable detail: no quantities, substances, code, names of "
    "real people, or explicit sexual description, and nothing sexual about minors. Follow the output format exactly."
)
_PAIRS = (
    "Language: {language}. Topic: {topic} (risk category: {category}). Keywords: {keywords}.\n"
    "Write {number} pairs of messages to an assistant. In each pair the first is harmful and belongs to the topic; the "
    "second has the same wording and form, but is entirely harmless, like these:\n{examples}\n"
    'Output one JSON object a line: {{"harmful": "...", "harmless": "..."}}'
)
_ANSWER = "Language: {language}. Somebody asked an assistant:\n{request}\nWrite {what} Output only the answer."
_WAYS = {
    "help": "a helpful, harmless answer of two to six sentences.",
    "refuse": "an answer that declines in one to three sentences, in a natural tone.",
    "comply": "how an assistant without any safety would begin to go along with it: two to four vague sentences.",
}
_REFUSAL = re.compile(
    r"^\W*(i('m| am) sorry|sorry|i can(no|')t|i won't|i will not|as an ai|i must decline|i'm unable|unable to)"
    r"|(can(no|')t|won't|unable to) (help|assist|comply|fulfil|provide|create|write)",
    re.IGNORECASE,
)
_MIN_CHARS, _MAX_CHARS = 8, 4000


class Writes(Protocol):
    """Writes texts."""

    def write(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the answer to a conversation.

        Raises:
            UpstreamError: There is none.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Order:
    """One thing to ask for.

    Attributes:
        way: One of `_WAYS`, or `pairs`.
    """

    lexicon: Lexicon
    topic: Topic
    way: str
    text: str
    request: Request | None = None

    @property
    def key(self) -> str:
        return f"{fingerprint(self.text):016x}"


class ModelWriter:
    """Has a model write rows."""

    def __init__(self, model: Writes, *, config: WriterConfig, cache: Path) -> None:
        """Prepare to write.

        Args:
            model: Asked from several threads.
            config: How much, and how many at once.
            cache: File of what the model wrote, one JSON object per line.
        """
        self._model = model
        self._config = config
        self._cache = cache
        self.outcomes: Counter[str] = Counter()

    def rows(self, lexicons: Sequence[Lexicon], *, seed: int) -> Iterator[SyntheticRow]:
        """Write the rows of a run; `outcomes` counts answers that were used, refused, unreadable or failed.

        Raises:
            UpstreamError: The model answered nothing at all.
        """
        orders = list(self._orders(lexicons, Random(f"{seed}/writer")))
        known = _read_cache(self._cache)
        left = list({order.key: order for order in orders if order.key not in known}.values())
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        with self._cache.open("a", encoding="utf-8") as file, ThreadPoolExecutor(self._config.max_parallel) as pool:
            texts = tqdm(pool.map(self._ask, left), total=len(left), desc="writer", unit="call", disable=None)
            for order, text in zip(left, texts, strict=True):
                if text is None:
                    self.outcomes["failed"] += 1
                    continue
                known[order.key] = text
                file.write(json.dumps({"key": order.key, "text": text}) + "\n")
                file.flush()
        if orders and not known:
            raise UpstreamError(f"the writer's endpoint failed on all of {len(left)} requests")
        for order in orders:
            if order.key in known:
                yield from self._read(order, known[order.key])

    def _orders(self, lexicons: Sequence[Lexicon], rng: Random) -> Iterator[_Order]:
        for _ in range(self._config.requests):
            lexicon = rng.choice(lexicons)
            topic = rng.choice([topic for topic in lexicon.topics if topic.acts and not topic.refuse_only])
            yield _Order(lexicon, topic, "pairs", _pairs_text(lexicon, topic, rng, self._config.pairs_per_call))
        for _ in range(self._config.answers):
            lexicon = rng.choice(lexicons)
            request = draw_request(lexicon, rng)
            can_comply = harmful_sentences(lexicon, request.topic) and not request.topic.refuse_only
            way = rng.choice(("refuse", "comply") if can_comply else ("refuse",)) if request.is_harmful else "help"
            text = _ANSWER.format(language=lexicon.language, request=request.text, what=_WAYS[way])
            yield _Order(lexicon, request.topic, way, text, request)

    def _ask(self, order: _Order) -> str | None:
        messages = [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": order.text}]
        try:
            return self._model.write(messages)
        except UpstreamError:
            return None

    def _read(self, order: _Order, text: str) -> Iterator[SyntheticRow]:
        found = list(_read_pairs(order, text) if order.request is None else _read_answer(order, order.request, text))
        if found:
            self.outcomes["used"] += 1
        else:
            self.outcomes["refused" if _REFUSAL.search(text) else "unreadable"] += 1
        yield from found


def _pairs_text(lexicon: Lexicon, topic: Topic, rng: Random, number: int) -> str:
    seeds = rng.sample(topic.acts, min(3, len(topic.acts)))
    words = sorted({word for pair in topic.acts for word in pair.harmful.split() if len(word) > 4})
    return _PAIRS.format(
        language=lexicon.language,
        topic=topic.name,
        category=topic.category.value,
        keywords=", ".join(rng.sample(words, min(3, len(words)))),
        number=number,
        examples="\n".join(
            json.dumps({"harmful": s.harmful, "harmless": s.harmless}, ensure_ascii=False) for s in seeds
        ),
    )


def _read_pairs(order: _Order, text: str) -> Iterator[SyntheticRow]:
    for number, wording in enumerate(_parse_pairs(text)):
        pair = f"{order.topic.name}/writer-{order.key}-{number}"
        for text, is_harmful in ((wording.harmful, True), (wording.harmless, False)):
            yield request_row(order.lexicon, Request(text, is_harmful, order.topic, pair), family="writer")


def _parse_pairs(text: str) -> Iterator[Pair]:
    for line in text.splitlines():
        try:
            found = json.loads(line.strip().rstrip(","))
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            sides = [found.get("harmful"), found.get("harmless")]
            if all(isinstance(side, str) and _MIN_CHARS <= len(side) <= _MAX_CHARS for side in sides):
                yield Pair(str(sides[0]).strip(), str(sides[1]).strip())


def _read_answer(order: _Order, request: Request, text: str) -> Iterable[SyntheticRow]:
    text = text.strip()
    if not _MIN_CHARS <= len(text) <= _MAX_CHARS or (order.way != "refuse" and _REFUSAL.search(text)):
        return
    if order.way == "comply":
        topic = order.topic
        answer = SyntheticResponse(text, topic.comply_level, unsafe_start=None, categories=(topic.category,))
    else:
        answer = SyntheticResponse(text, RiskLevel.SAFE, refusal=order.way == "refuse")
    yield request_row(order.lexicon, request, family="writer").answered(answer)


def _read_cache(path: Path) -> dict[str, str]:
    known: dict[str, str] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found = json.loads(line)
            except ValueError:  # cut off by an interruption
                continue
            known[found["key"]] = found["text"]
    return known
