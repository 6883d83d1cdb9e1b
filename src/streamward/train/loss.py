"""Joint loss of prompt and response heads (Qwen3Guard, arXiv 2510.14276, section 4.3)."""

# Shapes: N targets of one side; R risk levels; C categories.

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from streamward.model.guard_model import GuardModel
from streamward.schema import Side
from streamward.train.batching import Batch, SideTargets


class SideLoss(NamedTuple):
    """Weighted sums over one side's targets."""

    risk: Tensor
    category: Tensor


def side_loss(risk_NR: Tensor, category_NC: Tensor, targets: SideTargets) -> SideLoss:
    """Cross entropy of the level, and of the acceptable categories where there are any.

    Several acceptable categories count as one: the loss is the negative log of their summed probability.
    """
    risk = F.cross_entropy(risk_NR, targets.levels_N, reduction="none")
    known = targets.categories_NC.sum(dim=1) > 0
    log_probs = category_NC.log_softmax(dim=1)
    allowed = log_probs.masked_fill(targets.categories_NC == 0, float("-inf"))[known]
    category = -allowed.logsumexp(dim=1)
    return SideLoss((risk * targets.weights_N).sum(), (category * targets.weights_N[known]).sum())


def joint_loss(
    model: GuardModel, hidden_TD: Tensor, batch: Batch, *, category_weight: float, response_weight: float
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch per example, and its parts for the log.

    Args:
        model: Whose heads are read.
        hidden_TD: The batch's hidden states, flattened to B * S tokens.
        batch: Where `hidden_TD` comes from.
        category_weight: Weight of the category losses.
        response_weight: Weight of the response's losses.
    """
    total = torch.zeros((), device=hidden_TD.device)
    parts: dict[str, float] = {}
    for side, targets in batch.targets.items():
        if not len(targets.rows_N):
            continue
        logits = model.heads(side)(hidden_TD[targets.rows_N].float())
        loss = side_loss(logits.risk_TR, logits.category_TC, targets)
        weight = response_weight if side is Side.RESPONSE else 1.0
        total = total + weight * (loss.risk + category_weight * loss.category)
        share = float(targets.weights_N.sum())
        parts[f"{side.value}_risk"] = loss.risk.item() / share
    return total / batch.num_examples, parts
