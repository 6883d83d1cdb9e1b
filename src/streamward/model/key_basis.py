"""What is known of a decoder's keys and queries before they are rounded to 8 bits, and need not be rounded therefore.

Attention depends on how keys differ: a vector that is taken from all keys of a head changes all scores of a query by
the same amount, and softmax not at all. Keys have a few channels that are large for every token, and these set the
scale with which the rest is rounded (Zhang et al., SageAttention, arXiv 2410.02367, leave out the mean of the keys at
hand; a cache needs one vector for all texts, so that no verdict depends on what was read before).

Queries have much in common too, and errors of keys count most along it: with one number more for each key, what lies
along one direction of a head is multiplied exactly.
"""

# Shapes: T tokens; L layers; H query heads; K key/value heads; d head size.

from dataclasses import dataclass

import torch
from torch import Tensor

from streamward.model.config import ModelConfig
from streamward.model.decoder import Decoder, DenseAttention

_DOUBLINGS = 8  # of the power to which a matrix is raised to find its first eigenvector


@dataclass(frozen=True, slots=True)
class KeyBasis:
    """Statistics of each key head after rotary embedding, float32 [L, K, d]; 0 where they are not finite.

    Attributes:
        usual: What keys have in common.
        directions: Where queries are largest, of length 1.
    """

    mean_key: Tensor
    outlier_direction: Tensor


class _RecordingAttention:
    """Attends as always, and notes what queries and keys are behind the first token, which is like no other."""

    def __init__(self, config: ModelConfig, *, num_tokens: int) -> None:
        self._attend = DenseAttention(config, torch.arange(num_tokens)[None])
        self.mean_keys: list[Tensor] = []
        self.moments: list[Tensor] = []

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        _, num_kv_heads, head_dim = k_TKd.shape
        q_KTd = q_THd[1:].float().unflatten(1, (num_kv_heads, -1)).transpose(0, 1).reshape(num_kv_heads, -1, head_dim)
        self.mean_keys.append(k_TKd[1:].float().mean(dim=0))
        self.moments.append(q_KTd.mT @ q_KTd)
        return self._attend(layer, q_THd, k_TKd, v_TKd)


@torch.inference_mode()
def key_basis(decoder: Decoder, ids_T: Tensor) -> KeyBasis:
    """Read some tokens, and return what their keys and queries show.

    Args:
        decoder: Its layers may be packed.
        ids_T: At least two token ids.
    """
    seen = _RecordingAttention(decoder.config, num_tokens=len(ids_T))
    decoder(ids_T, torch.arange(len(ids_T)), seen)
    usual_LKd, moments_LKdd = torch.stack(seen.mean_keys), torch.stack(seen.moments)
    return KeyBasis(_zero_non_finite(usual_LKd), _first_eigenvectors(_zero_non_finite(moments_LKdd)))


def _zero_non_finite(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, 0.0)


def _first_eigenvectors(moments_LKdd: Tensor) -> Tensor:
    """By squaring: of a high power of a symmetric matrix, every column points along the first eigenvector."""
    for _ in range(_DOUBLINGS):
        size_LK11 = moments_LKdd.abs().amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        moments_LKdd = moments_LKdd / size_LK11
        moments_LKdd = moments_LKdd @ moments_LKdd
    longest_LK = moments_LKdd.norm(dim=-2).argmax(dim=-1)
    columns_LKd = moments_LKdd.gather(-1, longest_LK[..., None, None].expand(*moments_LKdd.shape[:-1], 1)).squeeze(-1)
    return torch.nn.functional.normalize(columns_LKd, dim=-1)
