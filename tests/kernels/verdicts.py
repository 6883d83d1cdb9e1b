"""Verdicts of a guard on texts that are cut and batched at random: the plan, and two ways to run it.

The units of this machine run it as the service does, through `NativeModelRunner`. For units of other machines the plan
and the prepared weights go into one file, which a program without Python (`verdicts.c`) reads in an emulator.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from streamward.engine.model_runner import ModelInput, SequenceMetadata
from streamward.engine.native_runner import NativeModelRunner
from streamward.kernels.cache import SequenceSlice, items_of
from streamward.kernels.heads import pad_outputs
from streamward.kernels.quantization import QuantizedWeight
from streamward.model.parameters import EMBEDDING, ModelParameters, Weight
from streamward.schema import Side

Floats = NDArray[np.float32]
PAGE_TOKENS, NUM_PAGES = 16, 96
MAX_STREAMS, MAX_PIECE, MAX_ROWS = 12, 9, 64
MAX_TOKENS = 64  # of one text
_INT8, _BF16 = 0, 1  # as in types.h
_SIDES = (Side.PROMPT, Side.RESPONSE)


@dataclass(frozen=True, slots=True)
class Text:
    """One text: its tokens, each of which gets a verdict, and whose heads judge it."""

    ids: Sequence[int]
    side: Side
    first_verdict: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Some new tokens of one text within a step."""

    text: Text
    start: int
    end: int
    pages: Sequence[int]


def make_texts(tokenizer: Tokenizer, *, num_verdicts: int, seed: int) -> list[Text]:
    """Cut sentences of twenty languages anywhere, up to so many tokens in all."""
    rng = random.Random(seed)
    languages = json.loads(Path(__file__).with_name("languages.json").read_text(encoding="utf-8"))
    texts: list[Text] = []
    made = 0
    while made < num_verdicts:
        sentences = languages[sorted(languages)[len(texts) % len(languages)]]
        whole = " ".join(rng.sample(sentences, 2))
        start = rng.randrange(len(whole) // 2)
        ids = tokenizer.encode(whole[start : rng.randrange(start + 2, len(whole) + 1)]).ids
        texts.append(Text(ids[: min(MAX_TOKENS, num_verdicts - made)], rng.choice(_SIDES), made))
        made += len(texts[-1].ids)
    return texts


def plan_steps(texts: Sequence[Text], *, seed: int) -> Iterator[list[Piece]]:
    """Read the texts in other pieces, batches and pages for every seed."""
    rng = random.Random(seed)
    waiting = list(texts)
    rng.shuffle(waiting)
    free = list(range(NUM_PAGES))
    opened: list[Piece] = []
    while waiting or opened:
        while waiting and len(opened) < MAX_STREAMS and rng.random() < 0.7:
            text = waiting.pop()
            rng.shuffle(free)
            opened.append(Piece(text, 0, 0, [free.pop() for _ in range(-(-len(text.ids) // PAGE_TOKENS))]))
        rng.shuffle(opened)
        step: list[Piece] = []
        left: list[Piece] = []
        num_rows = 0
        for each in opened:
            end = min(len(each.text.ids), each.end + rng.randint(1, MAX_PIECE))
            if num_rows + end - each.end > MAX_ROWS or rng.random() < 0.2:
                left.append(each)
                continue
            num_rows += end - each.end
            step.append(Piece(each.text, each.end, end, each.pages))
            if end < len(each.text.ids):
                left.append(step[-1])
            else:
                free += each.pages
        opened = left
        if step:
            yield step


def run_step(runner: NativeModelRunner, step: Sequence[Piece], found: Floats) -> int:
    """Run one step as the engine does, and put its verdicts in their rows; return how many there were."""
    where = _verdicts_of(step)
    rows = {side: [row for of_side, row, _ in where if of_side is side] for side in _SIDES}
    sequences = [SequenceMetadata(piece.text.ids[piece.start : piece.end], piece.start, piece.pages) for piece in step]
    output = runner.run(ModelInput(sequences, {side: of_side for side, of_side in rows.items() if of_side}))
    for side, probs in output.probs.items():
        both = np.concatenate((probs.risk_nR, probs.category_nC), axis=1)
        found[[verdict for of_side, _, verdict in where if of_side is side], : both.shape[1]] = both
    return len(where)


def _verdicts_of(step: Sequence[Piece]) -> list[tuple[Side, int, int]]:
    """Return side, row and number of each verdict."""
    of_rows = [(piece.text, at) for piece in step for at in range(piece.start, piece.end)]
    return [(text.side, row, text.first_verdict + at) for row, (text, at) in enumerate(of_rows)]


def num_columns(parameters: ModelParameters) -> int:
    """Return how many probabilities a verdict has at most."""
    assert parameters.guard is not None
    labels = [parameters.guard.labels(side) for side in _SIDES]
    return max(len(each.risk_levels) + len(each.categories) for each in labels)


def write_guard(file: BinaryIO, parameters: ModelParameters, *, num_verdicts: int) -> None:
    """Write what `verdicts.c` needs of a guard of the Llama family with prepared weights."""
    config, guard = parameters.config, parameters.guard
    assert guard is not None and not config.is_gemma and config.sliding_window is None
    (embedding,) = parameters.weights[EMBEDDING]
    assert isinstance(embedding, QuantizedWeight)
    sizes = (config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim, config.intermediate_size)
    limits = (PAGE_TOKENS, NUM_PAGES, MAX_ROWS, MAX_TOKENS)
    _integers(file, config.num_layers, *sizes, *limits, len(embedding.values), num_verdicts, num_columns(parameters))
    file.write(np.array([config.rope_theta, config.rms_norm_eps], np.float64).tobytes())
    file.write(np.ascontiguousarray(embedding.values).tobytes())
    file.write(np.ascontiguousarray(embedding.scales).tobytes())
    for index in range(config.num_layers):
        name = f"decoder.layers.{index}."
        for kind in ("qkv", "out", "gate_up", "down"):
            _linear(file, parameters.weights[f"{name}{kind}.weight"])
        for kind in ("input_norm", "post_norm"):
            _floats(file, parameters.vectors[f"{name}{kind}.weight"])
    _floats(file, parameters.vectors["decoder.norm.weight"])
    for side, name in zip(_SIDES, ("prompt_heads", "response_heads"), strict=True):
        labels, offsets = guard.labels(side), guard.risk_offsets.get(side)
        num_levels = len(labels.risk_levels)
        _integers(file, num_levels, num_levels + len(labels.categories))
        _linear(file, [parameters.bfloat16(f"{name}.pre.weight")])
        outputs = [parameters.bfloat16(f"{name}.{kind}.weight") for kind in ("risk", "category")]
        _linear(file, [pad_outputs(np.concatenate(outputs))])
        _floats(file, parameters.vectors[f"{name}.norm.weight"])
        _floats(file, np.zeros(num_levels) if offsets is None else np.asarray(offsets))


def write_steps(file: BinaryIO, steps: Sequence[Sequence[Piece]], *, group: int) -> None:
    """Write the steps behind a guard; `group`: query heads for each key head."""
    _integers(file, len(steps))
    for step in steps:
        rows = [(piece, at) for piece in step for at in range(piece.start, piece.end)]
        slots = [piece.pages[at // PAGE_TOKENS] * PAGE_TOKENS + at % PAGE_TOKENS for piece, at in rows]
        verdicts = [(_SIDES.index(side), row, verdict) for side, row, verdict in _verdicts_of(step)]
        items, pages = items_of([SequenceSlice(p.end - p.start, p.end, p.pages) for p in step], group=group)
        _integers(file, len(rows), len(items), len(pages), len(verdicts))
        _integers(file, *(piece.text.ids[at] for piece, at in rows), *(at for _, at in rows), *slots)
        file.write(items.tobytes() + pages.tobytes())
        _integers(file, *(value for verdict in verdicts for value in verdict))


def _integers(file: BinaryIO, *values: int) -> None:
    file.write(np.array(values, np.int64).tobytes())


def _floats(file: BinaryIO, values: NDArray[np.floating]) -> None:
    file.write(np.ascontiguousarray(values, np.float32).tobytes())


def _linear(file: BinaryIO, blocks: Sequence[Weight]) -> None:
    """Kind, outputs and inputs, values, and scales of 8 bits."""
    rounded = [block for block in blocks if isinstance(block, QuantizedWeight)]
    exact = [block for block in blocks if not isinstance(block, QuantizedWeight)]
    values = np.concatenate([block.values for block in rounded] if rounded else exact)
    _integers(file, _INT8 if rounded else _BF16, *values.shape)
    file.write(np.ascontiguousarray(values).tobytes())
    if rounded:
        file.write(np.concatenate([block.scales for block in rounded]).tobytes())
