"""A causal language model run by torch's operations."""

# Shapes: t new tokens; C capacity of the cache; D hidden size; H query heads; K key/value heads; d head size.

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamward.generative.cached_tokens import CachedTokens
from streamward.model.attention import attend
from streamward.model.checkpoint import load_gen
from streamward.model.guard_model import CausalLM
from streamward.model.packing import pack_linears, serving_dtype


def load_torch_language_model(folder: Path, *, dtype: str | None) -> "TorchLanguageModel":
    """Load a checkpoint with weights of a dtype; None takes bfloat16 where the CPU computes it fast, else float32.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    model = load_gen(folder, dtype=serving_dtype() if dtype is None else getattr(torch, dtype))
    pack_linears(model)
    return TorchLanguageModel(model)


class TorchLanguageModel:
    """A `CausalLM` on the device of its weights."""

    def __init__(self, model: CausalLM) -> None:
        """Take a model, whose weights must not change from now on."""
        self.model = model

    @property
    def max_positions(self) -> int:
        """Longest sequence."""
        return self.model.decoder.config.max_positions

    def session(self, ids: Sequence[int], *, capacity: int) -> "TorchSession":
        """Start a sequence."""
        return TorchSession(self.model, ids, capacity=capacity)


class TorchSession(CachedTokens):
    """One sequence with its keys and values; tokens are processed when the logits behind them are asked for."""

    def __init__(self, model: CausalLM, ids: Sequence[int], *, capacity: int) -> None:
        """Start with some tokens, none of them processed."""
        self._model = model
        super().__init__(ids)
        self._capacity = capacity
        self._keys_KCd: list[Tensor] = []
        self._values_KCd: list[Tensor] = []

    @torch.inference_mode()
    def logits(self) -> NDArray[np.float32]:
        """Return the logits of the next token, [vocabulary]."""
        self._num_cached = min(self._num_cached, self.length - 1)
        device = self._model.decoder.embed.weight.device
        hidden_tD: Tensor = self._model.decoder(
            torch.tensor(self._ids[self._num_cached :], device=device),
            torch.arange(self._num_cached, self.length, device=device),
            self._attend,
        )
        self._num_cached = self.length
        logits: NDArray[np.float32] = self._model.logits(hidden_tD[-1:])[0].cpu().numpy()
        return logits

    def _attend(self, layer: int, q_tHd: Tensor, k_tKd: Tensor, v_tKd: Tensor) -> Tensor:
        if layer == len(self._keys_KCd):  # this is the first pass
            _, num_kv_heads, head_dim = k_tKd.shape
            self._keys_KCd.append(k_tKd.new_empty(num_kv_heads, self._capacity, head_dim))
            self._values_KCd.append(v_tKd.new_empty(num_kv_heads, self._capacity, head_dim))
        keys_KCd, values_KCd = self._keys_KCd[layer], self._values_KCd[layer]
        keys_KCd[:, self._num_cached : self.length] = k_tKd.transpose(0, 1)
        values_KCd[:, self._num_cached : self.length] = v_tKd.transpose(0, 1)
        return attend(q_tHd, keys_KCd[:, : self.length], values_KCd[:, : self.length]).flatten(1)
