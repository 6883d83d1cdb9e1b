"""Scores of labelled rows under a model in training: one dense pass, no engine."""

# Shapes: B sequences of S tokens; N tokens, n of one row; R risk levels.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from streamward.model.decoder import dense_hidden
from streamward.model.guard_model import GuardModel
from streamward.policy import RESPONSE_CONSECUTIVE_TOKENS
from streamward.schema import RiskLevel, Side
from streamward.train.batching import plan_batches
from streamward.train.examples import Example


@dataclass(frozen=True, slots=True)
class Score:
    """The risk of one side of one row.

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


class RowLogits(NamedTuple):
    """Risk logits of every judged token of one side of a row.

    Attributes:
        example: Index of the row.
        levels_n: Index of the right logit of each token.
        weights_n: What each token counts in the loss.
        level: The right level of the whole text.
    """

    example: int
    side: Side
    logits_nR: Tensor
    levels_n: Tensor
    weights_n: Tensor
    level: RiskLevel


@torch.no_grad()
def row_logits(model: GuardModel, examples: Sequence[Example], *, batch_tokens: int = 4096) -> list[RowLogits]:
    """Read every row once; return the logits of each side that has targets, in the order of rows within each batch."""
    found: list[RowLogits] = []
    device = model.decoder.embed.weight.device
    for indices in plan_batches([len(example.ids) for example in examples], max_tokens=batch_tokens, seed=0):
        length = max(len(examples[index].ids) for index in indices)
        ids_BS = torch.zeros(len(indices), length, dtype=torch.int64)
        for row, index in enumerate(indices):
            ids_BS[row, : len(examples[index].ids)] = torch.tensor(examples[index].ids)
        hidden_BSD = dense_hidden(model.decoder, ids_BS.to(device))
        for row, index in enumerate(indices):
            found += _logits_of_row(model, hidden_BSD[row], examples[index], index=index)
    return found


def score_examples(model: GuardModel, examples: Sequence[Example], *, batch_tokens: int = 4096) -> list[Score]:
    """Score both sides of every row, in the order of `row_logits`."""
    return [_score(row, model) for row in row_logits(model, examples, batch_tokens=batch_tokens)]


def held_peak(probability_N: Tensor, *, run: int) -> float:
    """Return the highest value that `run` successive tokens all reach; the run is cut to the text's length."""
    run = min(run, len(probability_N))
    return float(probability_N.unfold(0, run, 1).amin(dim=1).max())


def _logits_of_row(model: GuardModel, hidden_SD: Tensor, example: Example, *, index: int) -> Iterator[RowLogits]:
    for side in Side:
        targets = [target for target in example.targets if target.side is side]
        if targets:
            labels = model.guard_config.labels(side)
            positions = torch.tensor([target.position for target in targets])
            yield RowLogits(
                index,
                side,
                model.heads(side)(hidden_SD[positions].float()).risk_TR.cpu(),
                torch.tensor([labels.risk_levels.index(target.level) for target in targets]),
                torch.tensor([target.weight * example.weight for target in targets]),
                max((target.level for target in targets), key=lambda each: each.severity),
            )


def _score(row: RowLogits, model: GuardModel) -> Score:
    risk_nR, labels = row.logits_nR.softmax(dim=1), model.guard_config.labels(row.side)
    unsafe_n = risk_nR[:, labels.risk_levels.index(RiskLevel.UNSAFE)]
    risky_n = 1 - risk_nR[:, labels.risk_levels.index(RiskLevel.SAFE)]
    run = RESPONSE_CONSECUTIVE_TOKENS if row.side is Side.RESPONSE else 1
    return Score(row.example, row.side, held_peak(unsafe_n, run=run), held_peak(risky_n, run=run), row.level)
