"""Hidden states of a guard for texts to be taught from: the very activations that serving sees."""

# Shapes: T tokens; L taps; D hidden size.

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamward.engine.engine import Engine
from streamward.engine.native_runner import NativeModelRunner
from streamward.model.config import ModelConfig
from streamward.moderation.sentences import sentence_ends
from streamward.moderation.stream_guard import StreamGuard, first_owned
from streamward.rules.features import PooledText, Standard, first_row, pool
from streamward.rules.rule import RuleExample
from streamward.schema import Message, Role, Side
from streamward.tokenizer import GuardTokenizer, clean_text

Halves = NDArray[np.float16]
Floats = NDArray[np.float32]
_PROBE_NAME = "teach"
_BATCH_TOKENS = 4096  # read at a time: steps are full then, and the cache holds them
_BATCH_TEXTS = 128
_SHORT_SENTENCE = 2  # tokens behind the first; "Sure!" belongs to the sentence behind it
MAX_TOKENS = 400
"""Tokens of a text that are read; what is behind them teaches nothing."""
# Shares of the depth. What tells texts apart lies in other layers of each base: cross-validated over the topics of the
# train split of `datasets/rules`, layers 8, 10 and 12 of Gemma 3 270M have an area under the ROC curve of 0.87 (9, 11
# and 13 have 0.86, the last one by itself 0.80), the last four of SmolLM2-135M 0.70 to 0.72 (earlier ones below 0.67).
_MIDDLE = (0.45, 0.56, 0.67)
_LATE = (0.77, 0.88, 1.0)


@dataclass(frozen=True, slots=True)
class ReadText:
    """The hidden states that the guard computes for one text.

    Attributes:
        example: The text.
        states: Outputs of the taps at every judged token, [T, L, D].
        start: Index of the first token that breaks the rule; None if that is not known.
        end: Index of the last token of the sentence that breaks it, where the start is known.
    """

    example: RuleExample
    states: Halves
    start: int | None = None
    end: int | None = None

    @property
    def side(self) -> Side:
        """Side it is judged on."""
        return self.example.side


@dataclass(frozen=True, slots=True)
class _Prepared:
    example: RuleExample
    context: list[int]
    judged: list[int]
    start: int | None = None
    end: int | None = None


class _Collector:
    """A `TokenProbe` that returns the hidden states themselves."""

    def __init__(self, taps: tuple[int, ...], size: int) -> None:
        self.name = _PROBE_NAME
        self.layers = taps
        self.sides = frozenset(Side)
        self.num_scores = len(taps) * size

    def score(self, side: Side, hidden: Sequence[Floats]) -> Floats:
        """Return the states of all taps side by side."""
        joined: Floats = np.concatenate(hidden, axis=1)
        return joined


def taps_of(config: ModelConfig) -> tuple[int, ...]:
    """Return the layers of a model that rules are taught on."""
    last = config.num_layers - 1
    shares = _MIDDLE if config.is_gemma else _LATE
    return tuple(sorted({min(last, int(share * config.num_layers)) for share in shares}))


def read_texts(guard: StreamGuard, taps: tuple[int, ...], examples: Sequence[RuleExample]) -> Iterator[ReadText]:
    """Yield the hidden states of texts, in order.

    Args:
        guard: Its engine must have nothing else to do.
        taps: From `taps_of`.
        examples: Read as serving would: a response behind its prompt, a prompt up to its closing token.
    """
    engine = guard.engine
    size = engine.runner.model_config.hidden_size
    for batch in _batches(_prepare(guard.tokenizer, each, engine.max_stream_tokens) for each in examples):
        with _collecting(engine, taps):
            found = _read(engine, batch)
        for each, states in zip(batch, found, strict=True):
            yield ReadText(each.example, states.reshape(len(states), len(taps), size), each.start, each.end)


def _batches(texts: Iterable[_Prepared]) -> Iterator[list[_Prepared]]:
    batch: list[_Prepared] = []
    num_tokens = 0
    for text in texts:
        length = len(text.context) + len(text.judged)
        if batch and (num_tokens + length > _BATCH_TOKENS or len(batch) == _BATCH_TEXTS):
            yield batch
            batch, num_tokens = [], 0
        batch.append(text)
        num_tokens += length
    if batch:
        yield batch


@contextmanager
def _collecting(engine: Engine, taps: tuple[int, ...]) -> Iterator[None]:
    """Have an engine return hidden states, and leave out the layers behind the last tap where its runner can."""
    runner = engine.runner
    engine.add_probe(_Collector(taps, runner.model_config.hidden_size))
    try:
        if isinstance(runner, NativeModelRunner):
            with runner.up_to(max(taps)):
                yield
        else:
            yield
    finally:
        engine.remove_probe(_PROBE_NAME)
        engine.recover(range(sys.maxsize))  # every stream stays open, but nothing of what was cached is used again


def read_told(
    guard: StreamGuard, examples: Sequence[RuleExample], tell: Callable[[str], None], *, name: str
) -> Iterator[ReadText]:
    """Yield what `read_texts` yields on the guard's own taps, and tell after each fifth of the texts.

    Args:
        guard: As for `read_texts`.
        examples: Likewise.
        tell: Told about progress.
        name: What the texts are called.
    """
    total = len(examples)
    for count, text in enumerate(read_texts(guard, taps_of(guard.engine.runner.model_config), examples), 1):
        if count * 5 // total != (count - 1) * 5 // total:
            tell(f"reading {name}, once for this guard: {count} of {total} texts")
        yield text


def pooled_example(text: ReadText, standard: Standard, *, violates: bool) -> PooledText:
    """Return an example or a counter-example as the heads of a rule are taught from it.

    Args:
        text: With its hidden states.
        standard: Means and deviations of its side.
        violates: Which of both it is.
    """
    rows = pool(text.states, standard, text.side)
    start, end = (text.start, text.end) if violates else (None, None)
    first = first_row(text.side, len(rows))
    return PooledText(text.side, rows.astype(np.float16), violates, start, first, end)


def _prepare(tokenizer: GuardTokenizer, example: RuleExample, most: int) -> _Prepared:
    turns = [] if example.prompt is None else [Message(Role.USER, example.prompt)]
    rendered = tokenizer.render(turns, is_open=True)
    if example.response is None:
        position = rendered.prompt_position
        assert position is not None, "a prompt has a user turn"
        first = max(first_owned(rendered), position + 1 - MAX_TOKENS)
        return _Prepared(example, rendered.ids[:first][-(most // 2) :], rendered.ids[first : position + 1])
    text = clean_text(example.response)
    encoded = tokenizer.encode(text)
    context, judged = rendered.ids[-(most // 2) :], encoded.ids[:MAX_TOKENS]
    start = next((i for i, span in enumerate(encoded.spans) if span.end > (example.start or 0)), len(judged))
    if example.start is None or start >= len(judged):
        return _Prepared(example, context, judged)
    last = len(judged) - 1
    least = encoded.spans[min(last, start + _SHORT_SENTENCE)].end
    ending = next((end for end in sentence_ends(text) if end >= least), len(text))
    end = max(i for i, span in enumerate(encoded.spans[: len(judged)]) if span.start < ending)
    return _Prepared(example, context, judged, start, end)


def _read(engine: Engine, prepared: Sequence[_Prepared]) -> list[Halves]:
    streams = [engine.open() for _ in prepared]
    try:
        for stream_id, each in zip(streams, prepared, strict=True):
            if each.context:
                engine.extend(stream_id, each.context, head=None)
            engine.extend(stream_id, each.judged, head=each.example.side)
        found: dict[int, list[Floats]] = {stream_id: [] for stream_id in streams}
        while engine.num_queued_tokens:
            for output in engine.step():
                found[output.stream_id].append(output.probe_scores[_PROBE_NAME])
        limit = np.finfo(np.float16).max
        return [np.concatenate(found[each]).clip(-limit, limit).astype(np.float16) for each in streams]
    finally:
        for stream_id in streams:
            engine.close(stream_id)
