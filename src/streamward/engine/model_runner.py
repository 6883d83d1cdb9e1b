"""The interface between an engine and the place where a model runs: one forward pass over new tokens per call."""

# Shapes: T new tokens of all sequences, packed; n tokens that heads score; R risk levels; C categories; D hidden size.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streamward.model.config import ModelConfig
from streamward.model.guard_config import GuardConfig
from streamward.schema import Side


@dataclass(frozen=True, slots=True)
class SequenceMetadata:
    """One sequence's share of a step.

    Attributes:
        token_ids: New tokens, at least one.
        num_cached: Tokens before them, whose keys and values are in the cache.
        pages: Pages of the cache, in order, with room for the new tokens: slot = pages[position // page_tokens] *
            page_tokens + position % page_tokens.
    """

    token_ids: Sequence[int]
    num_cached: int
    pages: Sequence[int]

    @property
    def num_seen(self) -> int:
        """Tokens that the last new token attends to, itself included."""
        return self.num_cached + len(self.token_ids)

    def slots(self, start: int, end: int, *, page_tokens: int) -> list[int]:
        """Return the slots of the positions from `start` to `end`."""
        return [
            self.pages[position // page_tokens] * page_tokens + position % page_tokens for position in range(start, end)
        ]


@dataclass(frozen=True, slots=True)
class ModelInput:
    """The work of one step.

    Attributes:
        sequences: Their new tokens, one after the other, are the T rows of the step.
        head_rows: Rows, ascending, whose hidden states each side's heads score.
        taps: Layers whose hidden states are returned; see `streamward.engine.probes`.
    """

    sequences: Sequence[SequenceMetadata]
    head_rows: Mapping[Side, Sequence[int]]
    taps: tuple[int, ...] = ()


class HeadProbs(NamedTuple):
    """Probabilities of one side's heads, float32."""

    risk_nR: NDArray[np.float32]
    category_nC: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """The result of one step.

    Attributes:
        probs: For each side of `head_rows`, one row per row named there.
        taps: For each tap asked for, hidden states [T, D], float32.
    """

    probs: Mapping[Side, HeadProbs]
    taps: Mapping[int, NDArray[np.float32]]


class ModelRunner(Protocol):
    """A Stream guard with its weights and its KV cache. Not thread-safe: the engine calls it under its lock."""

    @property
    def model_config(self) -> ModelConfig:
        """Shape of the decoder."""
        ...

    @property
    def guard_config(self) -> GuardConfig:
        """Shape and labels of the heads."""
        ...

    @property
    def num_pages(self) -> int:
        """Pages of the KV cache."""
        ...

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in the KV cache."""
        ...

    @property
    def description(self) -> str:
        """Implementation and instruction set, for diagnostics: `native avx2`, `torch cuda`."""
        ...

    @property
    def prefers_adjacent_pages(self) -> bool:
        """True if a sequence costs less when its pages are adjacent."""
        ...

    def run(self, batch: ModelInput) -> ModelOutput:
        """Store keys and values of the new tokens and score their hidden states.

        Args:
            batch: At most `EngineConfig.max_batch_tokens` new tokens.
        """
        ...

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page of the cache in every layer."""
        ...


def num_cache_pages(kv_cache_bytes: int, *, token_bytes: int, page_tokens: int) -> int:
    """Return how many pages fit into a cache of `kv_cache_bytes`."""
    return kv_cache_bytes // (token_bytes * page_tokens)
