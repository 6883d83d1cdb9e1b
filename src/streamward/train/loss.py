"""Joint loss of prompt and response heads (Qwen3Guard, arXiv 2510.14276, section 4.3), and what we add to it."""

# Shapes: N targets of one side; R risk levels; C categories.

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from streamward.model.guard_model import GuardModel
from streamward.policy import RESPONSE_CONSECUTIVE_TOKENS
from streamward.schema import RiskLevel, Side
from streamward.train.batching import Batch, SideTargets

_WORST_SHARE = 0.1  # of the tokens of a response that count as its riskiest


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the parts; see `StreamTrainConfig`."""

    category: float
    response: float
    worst_token: float = 0.0
    monotonicity: float = 0.0


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
    model: GuardModel, hidden_TD: Tensor, batch: Batch, *, weights: LossWeights
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch per example, and its parts for the log.

    Args:
        model: Whose heads are read.
        hidden_TD: The batch's hidden states, flattened to B * S tokens.
        batch: Where `hidden_TD` comes from.
        weights: Weights of the terms.
    """
    total = torch.zeros((), device=hidden_TD.device)
    parts: dict[str, float] = {}
    for side, targets in batch.targets.items():
        if not len(targets.rows_N):
            continue
        logits = model.heads(side)(hidden_TD[targets.rows_N].float())
        is_response = side is Side.RESPONSE
        loss = side_loss(logits.risk_TR, logits.category_TC, targets)
        whole = loss.risk + weights.category * loss.category
        if is_response:
            safe = model.guard_config.labels(side).risk_levels.index(RiskLevel.SAFE)
            whole = whole + response_terms(logits.risk_TR, targets, weights=weights, safe=safe)
        total = total + (weights.response if is_response else 1.0) * whole
        share = float(targets.weights_N.sum())
        parts[f"{side.value}_risk"] = loss.risk.item() / share
    return total / batch.num_examples, parts


def response_terms(risk_NR: Tensor, targets: SideTargets, *, weights: LossWeights, safe: int) -> Tensor:
    """Return the terms of the response loss beyond the level of every token.

    `worst_token` moves a share of the loss of safe tokens to the riskiest tokens of each response, because a single
    false alarm stops an answer. `monotonicity` penalises risk that falls from one token to the next.
    """
    risk_N = F.cross_entropy(risk_NR, targets.levels_N, reduction="none")
    terms = torch.zeros((), device=risk_N.device)
    if weights.worst_token:
        terms = terms + weights.worst_token * _worst_token_shift(risk_N, targets, targets.levels_N == safe)
    if weights.monotonicity:
        terms = terms + weights.monotonicity * monotonicity_loss(risk_NR, targets, safe=safe)
    return terms


def monotonicity_loss(risk_NR: Tensor, targets: SideTargets, *, safe: int) -> Tensor:
    """Sum how far the risk falls from one token of a response to the next: harm, once begun, is not taken back."""
    risky_N = 1 - risk_NR.softmax(dim=1)[:, safe]
    falls = (risky_N[:-1] - risky_N[1:]).clamp(min=0)
    is_same = targets.owners_N[1:] == targets.owners_N[:-1]
    return (falls * targets.weights_N[1:] * is_same).sum()


def _worst_token_shift(risk_N: Tensor, targets: SideTargets, chosen_N: Tensor) -> Tensor:
    """Return by how much the loss changes when only the worst of the chosen tokens of each response count."""
    total = torch.zeros((), device=risk_N.device)
    for owner in targets.owners_N[chosen_N].unique():
        own = chosen_N & (targets.owners_N == owner)
        num_found = min(int(own.sum()), max(RESPONSE_CONSECUTIVE_TOKENS, round(_WORST_SHARE * int(own.sum()))))
        found = risk_N[own].topk(num_found).values.mean()
        total = total + targets.weights_N[own].sum() * found - (risk_N * targets.weights_N)[own].sum()
    return total
