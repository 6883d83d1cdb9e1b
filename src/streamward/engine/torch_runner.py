"""A Stream guard run by torch's operations: GPUs, CPUs without a compiled library, and parity tests."""

# Shapes: T new tokens of all sequences, packed and padded; D hidden size.

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamward.engine.config import EngineConfig
from streamward.engine.model_runner import HeadProbs, ModelInput, ModelOutput, SequenceMetadata, num_cache_pages
from streamward.engine.probes import FINAL
from streamward.engine.torch_attention import AttentionMetadata, KVCache, PagedAttention
from streamward.errors import ConfigError
from streamward.model.attention import round_size
from streamward.model.config import ModelConfig
from streamward.model.guard_config import GuardConfig
from streamward.model.guard_model import GuardModel
from streamward.model.torch_threads import fixed_threads
from streamward.schema import Side


class TorchModelRunner:
    """Runs a `GuardModel` over a paged cache on the device of its weights."""

    def __init__(self, model: GuardModel, config: EngineConfig) -> None:
        """Reserve the cache.

        Args:
            model: The guard; its weights must not change from now on.
            config: Size of the cache and threads.

        Raises:
            ConfigError: `kv_cache` is int8, which only the native kernels have.
        """
        if config.kv_cache == "int8":
            raise ConfigError("a KV cache of 8 bits needs the native kernels; set kv_cache to full")
        self.model = model
        self._threads = config.threads
        self._page_tokens = config.page_tokens
        weight = model.decoder.embed.weight
        self._device = weight.device
        self.token_bytes = KVCache.bytes_per_token(self.model_config, weight.dtype)
        self.num_pages = num_cache_pages(
            config.kv_cache_bytes, token_bytes=self.token_bytes, page_tokens=config.page_tokens
        )
        num_slots = self.num_pages * config.page_tokens
        self._cache = KVCache(self.model_config, num_slots=num_slots, dtype=weight.dtype, device=self._device)

    @property
    def model_config(self) -> ModelConfig:
        """Shape of the decoder."""
        return self.model.decoder.config

    @property
    def guard_config(self) -> GuardConfig:
        """Shape and labels of the heads."""
        return self.model.guard_config

    @property
    def description(self) -> str:
        """`torch`, device and dtype."""
        return f"torch {self._device.type} {str(self.model.decoder.embed.weight.dtype).removeprefix('torch.')}"

    @property
    def prefers_adjacent_pages(self) -> bool:
        """True: attention then reads keys and values in place."""
        return True

    @torch.inference_mode()
    def run(self, batch: ModelInput) -> ModelOutput:
        """Store keys and values of the new tokens and score their hidden states."""
        with fixed_threads(self._threads), self._tapped(batch.taps) as tapped:
            hidden_TD = self._forward(batch.sequences)
            probs = {side: self._score(side, rows, hidden_TD) for side, rows in batch.head_rows.items() if rows}
        num_rows = sum(len(each.token_ids) for each in batch.sequences)
        if FINAL in batch.taps:
            tapped[FINAL] = hidden_TD
        return ModelOutput(probs, {tap: _array(states[:num_rows]) for tap, states in tapped.items()})

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page of the cache in every layer."""
        self._cache.copy_page(source, target, page_tokens=self._page_tokens)

    def _forward(self, sequences: Sequence[SequenceMetadata]) -> Tensor:
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for each in sequences:
            ids += each.token_ids
            positions += range(each.num_cached, each.num_seen)
            slots += each.slots(each.num_cached, each.num_seen, page_tokens=self._page_tokens)
        padding = [0] * (round_size(len(ids)) - len(ids))
        ids_T = torch.tensor(ids + padding, device=self._device)
        new_slots_T = torch.tensor(slots, device=self._device)
        attend = PagedAttention(self.model_config, self._cache, new_slots_T=new_slots_T, parts=self._parts(sequences))
        hidden_TD: Tensor = self.model.decoder(ids_T, torch.tensor(positions + padding, device=self._device), attend)
        return hidden_TD

    def _score(self, side: Side, rows: Sequence[int], hidden_TD: Tensor) -> HeadProbs:
        padded = [*rows, *[0] * (round_size(len(rows)) - len(rows))]
        logits = self.model.heads(side)(hidden_TD[torch.tensor(padded, device=self._device)])
        risk_nR, category_nC = (each[: len(rows)].softmax(dim=-1) for each in (logits.risk_TR, logits.category_TC))
        return HeadProbs(_array(risk_nR), _array(category_nC))

    @contextmanager
    def _tapped(self, taps: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Collect the residual stream after some layers, [T, D] each, during a `with` block."""
        found: dict[int, Tensor] = {}
        decoder = self.model.decoder

        def keep_input(tap: int) -> object:
            def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                found[tap] = inputs[0]

            module = decoder.norm if tap + 1 == len(decoder.layers) else decoder.layers[tap + 1]
            return module.register_forward_pre_hook(hook)

        handles = [keep_input(tap) for tap in taps if tap != FINAL]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()  # type: ignore[attr-defined]

    def _parts(self, sequences: Sequence[SequenceMetadata]) -> list[AttentionMetadata]:
        parts: list[AttentionMetadata] = []
        row = 0
        for each in sequences:
            count = len(each.token_ids)
            parts.append(AttentionMetadata(slice(row, row + count), self._slots(each), each.num_seen))
            row += count
        return parts

    def _slots(self, sequence: SequenceMetadata) -> slice | Tensor:
        page_tokens, pages = self._page_tokens, list(sequence.pages)
        length = -(-sequence.num_seen // page_tokens) * page_tokens
        if pages == list(range(pages[0], pages[0] + len(pages))):
            return slice(pages[0] * page_tokens, pages[0] * page_tokens + length)
        return torch.tensor(sequence.slots(0, length, page_tokens=page_tokens), device=self._device)


def _array(x: Tensor) -> NDArray[np.float32]:
    """Return a copy in numpy: slices of it are kept long after the step."""
    array: NDArray[np.float32] = x.float().cpu().numpy()
    return array.copy() if array.base is not None else array
