"""Tiny random decoders of each family, packed for any unit, and streams that are read in random cuts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamward.kernels.bfloat16 import to_bfloat16
from streamward.kernels.decoder import DecoderWeights, KernelDecoder, LayerWeights, SequenceSlice
from streamward.kernels.library import Kernels
from streamward.kernels.quantization import quantize
from streamward.kernels.weights import PackedWeight

Floats = NDArray[np.float32]
VOCAB_SIZE = 97
PAGE_TOKENS = 32
MAX_POSITIONS = 512


@dataclass(frozen=True)
class Shape:
    """Of a tiny decoder."""

    family: str
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 192
    window: int | None = None

    @property
    def is_gemma(self) -> bool:
        return self.family == "gemma"


SHAPES = {
    "llama": Shape("llama"),
    "qwen3": Shape("qwen3", num_heads=4, head_dim=128),
    "gemma": Shape("gemma", num_layers=3, num_heads=4, num_kv_heads=1, head_dim=256, window=40),
}


class RandomWeights:
    """Arrays of a decoder, the same for every unit."""

    def __init__(self, shape: Shape, *, seed: int = 7) -> None:
        self.shape = shape
        self._rng = np.random.default_rng(seed)
        d, heads, kv_heads = shape.head_dim, shape.num_heads, shape.num_kv_heads
        hidden, inner = shape.hidden_size, shape.intermediate_size
        self.embeddings = self._matrix(VOCAB_SIZE, hidden)
        self.norm = self._norm(hidden)
        self.layers = [
            {
                "q": self._matrix(heads * d, hidden),
                "k": self._matrix(kv_heads * d, hidden),
                "v": self._matrix(kv_heads * d, hidden),
                "out": self._matrix(hidden, heads * d),
                "gate": self._matrix(inner, hidden),
                "up": self._matrix(inner, hidden),
                "down": self._matrix(hidden, inner),
                "input_norm": self._norm(hidden),
                "post_norm": self._norm(hidden),
                "q_norm": self._norm(d),
                "k_norm": self._norm(d),
                "attention_out_norm": self._norm(hidden),
                "mlp_out_norm": self._norm(hidden),
                "mean_key": self._rng.standard_normal((kv_heads, d), np.float32),
                "outlier_direction": self._directions(kv_heads, d),
            }
            for _ in range(shape.num_layers)
        ]

    def _matrix(self, outputs: int, inputs: int) -> Floats:
        values = self._rng.standard_normal((outputs, inputs), np.float32) * np.float32(inputs**-0.5)
        values[self._rng.integers(outputs), self._rng.integers(inputs)] *= 30  # an outlier sets its group's scale
        return values

    def _norm(self, size: int) -> Floats:
        return (1 + 0.3 * self._rng.standard_normal(size)).astype(np.float32)

    def _directions(self, kv_heads: int, d: int) -> Floats:
        values = self._rng.standard_normal((kv_heads, d), np.float32)
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Mode:
    """How weights and cache are rounded."""

    is_int8: bool = True
    int8_cache: bool = False
    is_fast: bool = False
    exact_layers: tuple[int, ...] = ()


def decoder_of(
    weights: RandomWeights, *, kernels: Kernels, mode: Mode, num_pages: int = 40, max_rows: int = 90
) -> KernelDecoder:
    """Pack a decoder for a unit."""
    shape = weights.shape

    def packed(index: int, *names: str) -> PackedWeight:
        blocks = [weights.layers[index][name] for name in names]
        is_gated = "gate" in names
        if mode.is_int8 and index not in mode.exact_layers:
            return PackedWeight.int8(
                [quantize(block, kernels=kernels) for block in blocks], kernels=kernels, is_gated=is_gated
            )
        return PackedWeight.bfloat16(
            [to_bfloat16(block) for block in blocks], kernels=kernels, is_gated=is_gated, is_fast=mode.is_fast
        )

    layers = []
    for index, layer in enumerate(weights.layers):
        slides = shape.is_gemma and index != 1
        layers.append(
            LayerWeights(
                qkv=packed(index, "q", "k", "v"),
                out=packed(index, "out"),
                gate_up=packed(index, "gate", "up"),
                down=packed(index, "down"),
                input_norm=layer["input_norm"],
                post_norm=layer["post_norm"],
                q_norm=None if shape.family == "llama" else layer["q_norm"],
                k_norm=None if shape.family == "llama" else layer["k_norm"],
                attention_out_norm=layer["attention_out_norm"] if shape.is_gemma else None,
                mlp_out_norm=layer["mlp_out_norm"] if shape.is_gemma else None,
                window=shape.window if slides else None,
                rope=int(slides),
                mean_key=layer["mean_key"] if mode.int8_cache else None,
                outlier_direction=layer["outlier_direction"] if mode.int8_cache else None,
            )
        )
    return KernelDecoder(
        kernels,
        DecoderWeights(
            layers=layers,
            norm=weights.norm,
            embeddings=(
                quantize(weights.embeddings, kernels=kernels) if shape.is_gemma else to_bfloat16(weights.embeddings)
            ),
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            rms_norm_eps=1e-6,
            rope_thetas=(1e6, 1e4),
            max_positions=MAX_POSITIONS,
            activation="gelu_tanh" if shape.is_gemma else "silu",
            embedding_scale=float(shape.hidden_size) ** 0.5 if shape.is_gemma else 1.0,
        ),
        num_pages=num_pages,
        page_tokens=PAGE_TOKENS,
        max_rows=max_rows,
        int8_cache=mode.int8_cache,
        fast_attention=mode.is_fast,
    )


def random_ids(length: int, *, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB_SIZE), k=length)


def read_in_random_cuts(
    decoder: KernelDecoder, lengths: Sequence[int], *, seed: int, taps: Sequence[int] = ()
) -> Floats:
    """Read streams side by side in random cuts; return the hidden states of all, and of taps, [taps + 1, T, D]."""
    rng = random.Random(seed)
    free = list(range(40))
    rng.shuffle(free)
    pages: list[list[int]] = [[free.pop() for _ in range(-(-length // PAGE_TOKENS))] for length in lengths]
    done = [0] * len(lengths)
    found: dict[tuple[int, int], Floats] = {}
    while done != list(lengths):
        order = list(range(len(lengths)))
        rng.shuffle(order)
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        parts: list[SequenceSlice] = []
        where: list[tuple[int, int]] = []
        for stream in order:
            count = min(rng.choice([0, 1, 2, 5, 30]), lengths[stream] - done[stream], 90 - len(ids))
            if count == 0:
                continue
            span = range(done[stream], done[stream] + count)
            ids += random_ids(lengths[stream], seed=stream)[span.start : span.stop]
            positions += span
            slots += [pages[stream][at // PAGE_TOKENS] * PAGE_TOKENS + at % PAGE_TOKENS for at in span]
            parts.append(SequenceSlice(count, span.stop, pages[stream]))
            where += [(stream, at) for at in span]
            done[stream] += count
        if ids:
            decoded = decoder.decode(ids, positions=positions, slots=slots, parts=parts, taps=taps)
            together = np.concatenate((decoded.taps, decoded.hidden[None]))
            found.update({key: together[:, row].copy() for row, key in enumerate(where)})
    keys = [(stream, at) for stream, length in enumerate(lengths) for at in range(length)]
    return np.stack([found[key] for key in keys], axis=1)
