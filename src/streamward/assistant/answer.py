"""One answer being written: its tokens, and the keys and values of those that were read."""

# Shapes: t new tokens; T tokens of a pass, packed; C capacity of the cache; H query heads; K key/value heads;
# d head size.

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamward.assistant.sampling import Sampler, Sampling
from streamward.errors import StreamwardError
from streamward.model.attention import attend, round_size
from streamward.model.config import ModelConfig
from streamward.model.decoder import Decoder

_GROWTH_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Written:
    """One step of an answer.

    Attributes:
        token: What was written; None where the answer ended without one.
        finish_reason: `stop` or `length` where the answer has ended.
        error: Why it ended instead, if the model failed.
    """

    token: int | None
    finish_reason: str | None = None
    error: StreamwardError | None = None


class GeneratedAnswer:
    """One answer. Only the generator's thread touches it, save `is_cancelled`."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, *, deliver: Callable[[Written], None]) -> None:
        """Take what to continue; `deliver` is called from the generator's thread for every step and must not block."""
        self.ids = list(prompt)
        self.num_cached = 0
        self.num_written = 0
        self.max_tokens = sampling.max_tokens
        self.sampler = Sampler(sampling)
        self.deliver = deliver
        self.is_cancelled = False
        self._keys_KCd: list[Tensor] = []
        self._values_KCd: list[Tensor] = []

    @property
    def num_unread(self) -> int:
        """Tokens the model has not read."""
        return len(self.ids) - self.num_cached

    def make_room(self, num_new: int, *, config: ModelConfig, like: Tensor) -> None:
        """See to it that the cache holds the next tokens; what is not used holds zeros."""
        needed = self.num_cached + num_new
        if self._keys_KCd and self._keys_KCd[0].shape[1] >= needed:
            return
        capacity = -(-needed // _GROWTH_TOKENS) * _GROWTH_TOKENS
        shape = (config.num_kv_heads, capacity, config.head_dim)
        for caches in (self._keys_KCd, self._values_KCd):
            grown = [like.new_zeros(shape) for _ in range(config.num_layers)]
            for old, new in zip(caches, grown, strict=False):
                new[:, : self.num_cached] = old[:, : self.num_cached]
            caches[:] = grown

    def attend(self, layer: int, q_tHd: Tensor, *, k_tKd: Tensor, v_tKd: Tensor) -> Tensor:
        """Store keys and values of the next t tokens and return the attended values, [t, H, d]."""
        end = self.num_cached + len(q_tHd)
        keys_KCd, values_KCd = self._keys_KCd[layer], self._values_KCd[layer]
        keys_KCd[:, self.num_cached : end] = k_tKd.transpose(0, 1)
        values_KCd[:, self.num_cached : end] = v_tKd.transpose(0, 1)
        return attend(q_tHd, keys_KCd, values_KCd, num_seen=end)


class PackedAttention:
    """Attention of one pass over the next tokens of several answers."""

    def __init__(self, parts: Sequence[tuple[GeneratedAnswer, int]]) -> None:
        """Take the answers and how many tokens of each are read."""
        self._parts = parts

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        """Return the attended values, [T, H * d]; rows of padding are zero."""
        out_THd, start = torch.zeros_like(q_THd), 0
        for answer, count in self._parts:
            rows = slice(start, start + count)
            out_THd[rows] = answer.attend(layer, q_THd[rows], k_tKd=k_TKd[rows], v_tKd=v_TKd[rows])
            start += count
        return out_THd.flatten(1)


def read_next(decoder: Decoder, parts: Sequence[tuple[GeneratedAnswer, int]]) -> Tensor:
    """Read so many of the next tokens of several answers; the last hidden state of each, [answers, D]."""
    like = decoder.embed.weight
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    for answer, count in parts:
        answer.make_room(count, config=decoder.config, like=like)
        end = answer.num_cached + count
        ids += answer.ids[answer.num_cached : end]
        positions += range(answer.num_cached, end)
        ends.append(len(ids) - 1)
    padding = [0] * (round_size(len(ids)) - len(ids))
    hidden_TD: Tensor = decoder(
        torch.tensor(ids + padding, device=like.device),
        torch.tensor(positions + padding, device=like.device),
        PackedAttention(parts),
    )
    for answer, count in parts:
        answer.num_cached += count
    return hidden_TD[torch.tensor(ends, device=like.device)]
