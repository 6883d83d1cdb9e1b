"""A Stream guard run by the native kernels: the whole decoder in one call per step. No torch."""

# Shapes: T new tokens of all sequences, packed; n tokens that heads score; D hidden size.

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from streamward.engine.config import EngineConfig
from streamward.engine.model_runner import HeadProbs, ModelInput, ModelOutput
from streamward.engine.probes import FINAL
from streamward.errors import ConfigError
from streamward.kernels.cache import SequenceSlice, decoder_page_bytes
from streamward.kernels.decoder import KernelDecoder
from streamward.kernels.heads import softmax
from streamward.kernels.library import Kernels, load_kernels, set_num_threads
from streamward.model.config import ModelConfig
from streamward.model.guard_config import GuardConfig
from streamward.model.kernel_model import has_int8_weights, pack_decoder, pack_heads, why_unsupported
from streamward.model.parameters import ModelParameters
from streamward.schema import Side


class NativeModelRunner:
    """Runs a guard's decoder and heads by the kernels of this CPU."""

    def __init__(self, parameters: ModelParameters, config: EngineConfig, *, kernels: Kernels | None = None) -> None:
        """Pack the weights and reserve the cache.

        Args:
            parameters: A Stream guard; may be mapped from its file.
            config: Size of the cache and threads. Threads are those of the whole process.
            kernels: Those of this CPU by default.

        Raises:
            ConfigError: There are no kernels, or they do not support the model's shape.
        """
        if parameters.guard is None:
            raise ConfigError("an engine needs a Stream guard; this checkpoint has no token heads")
        self._kernels = load_kernels() if kernels is None else kernels
        reason = why_unsupported(
            parameters.config, page_tokens=config.page_tokens, inner_size=parameters.guard.inner_size
        )
        if reason is not None:
            raise ConfigError(reason)
        self.model_config: ModelConfig = parameters.config
        self.guard_config: GuardConfig = parameters.guard
        if config.threads is not None:
            set_num_threads(config.threads)
        shape = parameters.config
        page_bytes = decoder_page_bytes(
            num_layers=shape.num_layers,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            page_tokens=config.page_tokens,
            is_int8=config.kv_cache == "int8",
        )
        self.token_bytes = page_bytes // config.page_tokens
        self.num_pages = config.kv_cache_bytes // page_bytes
        self._has_int8_weights = has_int8_weights(parameters)
        self._heads = {side: pack_heads(parameters, side, self._kernels) for side in Side}
        self._decoder = KernelDecoder(
            self._kernels,
            pack_decoder(parameters, self._kernels, int8_cache=config.kv_cache == "int8"),
            num_pages=max(1, self.num_pages),
            page_tokens=config.page_tokens,
            max_rows=config.max_batch_tokens,
            int8_cache=config.kv_cache == "int8",
            fast_attention=not self._has_int8_weights,
        )
        self._page_tokens = config.page_tokens

    @property
    def description(self) -> str:
        """`native`, the unit of the kernels and the weights."""
        return f"native {self._kernels.unit} {'int8' if self._has_int8_weights else 'bfloat16'}"

    @property
    def prefers_adjacent_pages(self) -> bool:
        """False: the kernels read pages wherever they are."""
        return False

    def run(self, batch: ModelInput) -> ModelOutput:
        """Store keys and values of the new tokens and score their hidden states."""
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        slices: list[SequenceSlice] = []
        for each in batch.sequences:
            ids += each.token_ids
            positions += range(each.num_cached, each.num_seen)
            slots += each.slots(each.num_cached, each.num_seen, page_tokens=self._page_tokens)
            slices.append(SequenceSlice(len(each.token_ids), each.num_seen, each.pages))
        layers = [tap for tap in batch.taps if tap != FINAL]
        decoded = self._decoder.decode(ids, positions=positions, slots=slots, parts=slices, taps=layers)
        taps = {layer: states.copy() for layer, states in zip(layers, decoded.taps, strict=True)}
        if FINAL in batch.taps:
            taps[FINAL] = decoded.hidden.copy()
        probs = {side: self._score(side, _rows(decoded.hidden, rows)) for side, rows in batch.head_rows.items() if rows}
        return ModelOutput(probs, taps)

    @contextmanager
    def up_to(self, layer: int) -> Iterator[None]:
        """Run no layer behind one for the time of a `with` block, for who wants its hidden states and nothing else.

        What heads say then means nothing, and cached tokens lack keys and values: they must be forgotten.
        """
        self._decoder.limit_layers(layer + 1)
        try:
            yield
        finally:
            self._decoder.limit_layers(None)

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page of the cache in every layer."""
        self._decoder.copy_page(source, target)

    def _score(self, side: Side, hidden_nD: NDArray[np.float32]) -> HeadProbs:
        labels, offsets = self.guard_config.labels(side), self.guard_config.risk_offsets.get(side)
        num_levels, num_labels = len(labels.risk_levels), len(labels.risk_levels) + len(labels.categories)
        logits = self._heads[side].logits(hidden_nD)
        risk_nR = np.ascontiguousarray(logits[:, :num_levels])
        if offsets is not None:
            risk_nR += np.asarray(offsets, np.float32)
        return HeadProbs(
            softmax(risk_nR, kernels=self._kernels), softmax(logits[:, num_levels:num_labels], kernels=self._kernels)
        )


def _rows(hidden_TD: NDArray[np.float32], rows: Sequence[int]) -> NDArray[np.float32]:
    """Return some rows; a view where they are successive."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return hidden_TD[rows[0] : rows[-1] + 1]
    return hidden_TD[list(rows)]
