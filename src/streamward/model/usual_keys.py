"""What the keys of a decoder have in common, left out before they are rounded.

Attention depends on how keys differ: a vector that is taken from all keys of a head changes all scores of a query by
the same amount, and softmax not at all. Keys have a few channels that are large for every token, and these set the
scale with which the rest is rounded (Zhang et al., SageAttention, arXiv 2410.02367, leave out the mean of the keys at
hand; a cache needs one vector for all texts, so that no verdict depends on what was read before).
"""

# Shapes: T tokens; L layers; H query heads; K key/value heads; d head size.

import torch
from torch import Tensor

from streamward.model.decoder import Decoder, DenseAttention


class _MeanKeys:
    """Attends as always, and notes the mean of the keys behind the first, which is like no other."""

    def __init__(self, num_tokens: int) -> None:
        self._attend = DenseAttention(1, device=torch.device("cpu"), length=num_tokens)
        self.means: dict[int, Tensor] = {}

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        self.means[layer] = k_TKd[1:].float().mean(dim=0)
        return self._attend(layer, q_THd, k_TKd, v_TKd)


@torch.inference_mode()
def usual_keys(decoder: Decoder, ids_T: Tensor) -> Tensor:
    """Return what keys have in common after their rotation, float32 [L, K, d]; 0 where that is no number.

    Args:
        decoder: Its layers may be packed.
        ids_T: At least two token ids, to see what their keys have in common.
    """
    means = _MeanKeys(len(ids_T))
    decoder(ids_T, torch.arange(len(ids_T)), means)
    keys_LKd = torch.stack([means.means[layer] for layer in range(decoder.config.num_layers)])
    return torch.where(keys_LKd.isfinite(), keys_LKd, 0.0)
