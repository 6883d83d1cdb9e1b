"""Scores of labelled rows under a model in training: one dense pass, no engine."""

# Shapes: B sequences of S tokens; N tokens of one response.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from streamward.model.config import SideLabels
from streamward.model.decoder import dense_hidden
from streamward.model.guard_model import GuardModel
from streamward.policy import RESPONSE_CONSECUTIVE_TOKENS
from streamward.schema import RiskLevel, Side
from streamward.train.batching import collate, plan_batches
from streamward.train.examples import Example, TokenTarget


@dataclass(frozen=True, slots=True)
class Score:
    """How risky one side of one row looks.

    Attributes:
        example: Index of the row.
        unsafe: P(Unsafe); for a response the highest held over the policy's default run of tokens.
        risky: The same for P(Unsafe) + P(Controversial).
        level: The right level of the whole text.
    """

    example: int
    side: Side
    unsafe: float
    risky: float
    level: RiskLevel


@torch.no_grad()
def score_examples(model: GuardModel, examples: Sequence[Example], *, batch_tokens: int = 4096) -> list[Score]:
    """Score both sides of every row, in the order of rows within each batch."""
    scores: list[Score] = []
    device = model.decoder.embed.weight.device
    for indices in plan_batches([len(example.ids) for example in examples], max_tokens=batch_tokens, seed=0):
        length = max(len(examples[index].ids) for index in indices)
        ids_BS = torch.zeros(len(indices), length, dtype=torch.int64)
        for row, index in enumerate(indices):
            ids_BS[row, : len(examples[index].ids)] = torch.tensor(examples[index].ids)
        hidden_BSD = dense_hidden(model.decoder, ids_BS.to(device))
        for row, index in enumerate(indices):
            scores += _score_row(model, hidden_BSD[row], examples[index], index=index)
    return scores


class RowLogits(NamedTuple):
    """Risk logits of every judged token of one side of a row.

    Attributes:
        example: Index of the row.
        level: The right level of the whole text.
    """

    example: int
    logits_nR: Tensor
    level: RiskLevel


@torch.no_grad()
def row_logits(
    model: GuardModel, examples: Sequence[Example], side: Side, *, batch_tokens: int = 4096
) -> list[RowLogits]:
    """Return the logits of every row that has targets on a side."""
    found: list[RowLogits] = []
    device = model.decoder.embed.weight.device
    for indices in plan_batches([len(example.ids) for example in examples], max_tokens=batch_tokens, seed=0):
        batch = collate([examples[index] for index in indices], model.guard_config)
        hidden_BSD = dense_hidden(model.decoder, batch.ids_BS.to(device))
        for row, index in enumerate(indices):
            targets = [target for target in examples[index].targets if target.side is side]
            if targets:
                positions = torch.tensor([target.position for target in targets])
                logits_nR = model.heads(side)(hidden_BSD[row, positions].float()).risk_TR.cpu()
                level = max((target.level for target in targets), key=lambda each: each.severity)
                found.append(RowLogits(index, logits_nR, level))
    return found


@torch.no_grad()
def risk_logits(
    model: GuardModel, examples: Sequence[Example], side: Side, *, batch_tokens: int = 4096
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the risk logits of every target of a side [N, R], the right logit [N] and the target's weight [N]."""
    device = model.decoder.embed.weight.device
    logits, levels, weights = [torch.zeros(0, len(model.guard_config.labels(side).risk_levels))], [], []
    for indices in plan_batches([len(example.ids) for example in examples], max_tokens=batch_tokens, seed=0):
        batch = collate([examples[index] for index in indices], model.guard_config)
        targets = batch.targets[side]
        if len(targets.rows_N):
            hidden_TD = dense_hidden(model.decoder, batch.ids_BS.to(device)).flatten(0, 1)
            logits.append(model.heads(side)(hidden_TD[targets.rows_N.to(device)].float()).risk_TR.cpu())
            levels.append(targets.levels_N)
            weights.append(targets.weights_N)
    none = torch.zeros(0)
    return torch.cat(logits), torch.cat([none.long(), *levels]), torch.cat([none, *weights])


def held_peak(probability_N: Tensor, *, run: int) -> float:
    """Return the highest value that `run` successive tokens all reach; the run is cut to the text's length."""
    run = min(run, len(probability_N))
    return float(probability_N.unfold(0, run, 1).amin(dim=1).max())


def _score_row(model: GuardModel, hidden_SD: Tensor, example: Example, *, index: int) -> list[Score]:
    scores = []
    for side in Side:
        targets = [target for target in example.targets if target.side is side]
        if targets:
            rows = torch.tensor([target.position for target in targets])
            risk_NR = model.heads(side)(hidden_SD[rows].float()).risk_TR.softmax(dim=1).cpu()
            scores.append(_score_side(risk_NR, model.guard_config.labels(side), targets, index=index))
    return scores


def _score_side(risk_NR: Tensor, labels: SideLabels, targets: Sequence[TokenTarget], *, index: int) -> Score:
    side = targets[0].side
    unsafe_N = risk_NR[:, labels.risk_levels.index(RiskLevel.UNSAFE)]
    risky_N = 1 - risk_NR[:, labels.risk_levels.index(RiskLevel.SAFE)]
    run = RESPONSE_CONSECUTIVE_TOKENS if side is Side.RESPONSE else 1
    level = max((target.level for target in targets), key=lambda each: each.severity)
    return Score(index, side, held_peak(unsafe_N, run=run), held_peak(risky_N, run=run), level)
