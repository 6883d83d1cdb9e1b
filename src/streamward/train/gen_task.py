"""Batches and loss of a Gen guard: the answer's tokens alone."""

# Shapes: B rows of S tokens; N answer tokens.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from streamward.model.decoder import dense_hidden
from streamward.model.guard_model import CausalLM
from streamward.schema import RiskLevel
from streamward.train.batching import plan_batches
from streamward.train.config import GenTrainConfig
from streamward.train.gen_examples import GenExample
from streamward.train.scoring import Score
from streamward.train.trainer import Loss, ParameterGroup


@dataclass(frozen=True, slots=True)
class GenBatch:
    """Rows as padded trees.

    Attributes:
        ids_BS: Trunk, branch, branch; right-padded.
        positions_BS: A branch's positions go on from the trunk's.
        hidden_BSS: A token sees its trunk and what came before it in its own branch.
        rows_N: Index, in the batch flattened to B * S, of the token before each answer token.
        tokens_N: The answer tokens.
        weights_N: What each counts.
        num_rows: Examples in the batch.
    """

    ids_BS: Tensor
    positions_BS: Tensor
    hidden_BSS: Tensor
    rows_N: Tensor
    tokens_N: Tensor
    weights_N: Tensor
    num_rows: int


def collate_trees(examples: Sequence[GenExample], *, device: torch.device) -> GenBatch:
    """Pad examples and gather their answers."""
    length = max(example.num_tokens for example in examples)
    ids_BS = torch.zeros(len(examples), length, dtype=torch.int64)
    positions_BS = torch.arange(length).repeat(len(examples), 1)
    branch_BS = torch.zeros(len(examples), length, dtype=torch.int64)
    rows: list[int] = []
    tokens: list[int] = []
    weights: list[float] = []
    for row, example in enumerate(examples):
        start = len(example.trunk)
        ids_BS[row, :start] = torch.tensor(example.trunk, dtype=torch.int64)
        for number, branch in enumerate(example.branches, start=1):
            own = [*branch.ids, *(token.token_id for token in branch.answer)]
            end = start + len(own)
            ids_BS[row, start:end] = torch.tensor(own)
            positions_BS[row, start:end] = torch.arange(len(example.trunk), len(example.trunk) + len(own))
            branch_BS[row, start:end] = number
            first = row * length + start + len(branch.ids) - 1
            rows += range(first, first + len(branch.answer))
            tokens += [token.token_id for token in branch.answer]
            weights += [token.weight * example.weight for token in branch.answer]
            start = end
        branch_BS[row, start:] = len(example.branches) + 1  # padding
    is_other_BSS = (branch_BS[:, :, None] != branch_BS[:, None, :]) & (branch_BS[:, None, :] != 0)
    hidden_BSS = is_other_BSS | torch.ones(length, length, dtype=torch.bool).triu(1)
    return GenBatch(
        ids_BS.to(device),
        positions_BS.to(device),
        hidden_BSS.to(device),
        torch.tensor(rows, device=device),
        torch.tensor(tokens, device=device),
        torch.tensor(weights, device=device),
        len(examples),
    )


def answer_loss(model: CausalLM, batch: GenBatch) -> Loss:
    """Return the cross entropy of the answer's tokens over the whole vocabulary, per row."""
    hidden_BSD = dense_hidden(model.decoder, batch.ids_BS, positions_BS=batch.positions_BS, masked_BSS=batch.hidden_BSS)
    logits = model.logits(hidden_BSD.flatten(0, 1)[batch.rows_N])
    losses_N = F.cross_entropy(logits, batch.tokens_N, reduction="none") * batch.weights_N
    total = losses_N.sum() / batch.num_rows
    answer = losses_N.detach().sum() / batch.weights_N.sum().clamp(min=1e-6)
    return Loss(total, {"answer": answer.item()})


@dataclass(frozen=True, slots=True)
class GenTask:
    """Answers to the instruction, over a decoder with low-rank updates."""

    config: GenTrainConfig
    model: CausalLM
    examples: Sequence[GenExample]
    device: torch.device

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [example.num_tokens for example in self.examples]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the updates."""
        return [ParameterGroup([each for each in self.model.parameters() if each.requires_grad], self.config.lr)]

    def loss(self, indices: Sequence[int]) -> Loss:
        """Return the loss of some examples."""
        return answer_loss(self.model, collate_trees([self.examples[index] for index in indices], device=self.device))


@torch.no_grad()
def score_answers(
    model: CausalLM, examples: Sequence[GenExample], level_tokens: Mapping[RiskLevel, int], *, batch_tokens: int = 4096
) -> list[Score]:
    """Score the level of every branch; one dense pass, no generation.

    Args:
        model: The guard.
        examples: With or without answers: only what precedes the level is looked at.
        level_tokens: The token that decides about each level.
        batch_tokens: Most tokens at once.
    """
    device = model.decoder.embed.weight.device
    order = list(level_tokens)
    token_ids = torch.tensor([level_tokens[level] for level in order], device=device)
    scores: list[Score] = []
    for indices in plan_batches([each.num_tokens for each in examples], max_tokens=batch_tokens, seed=0):
        batch = collate_trees([examples[index] for index in indices], device=device)
        hidden_BSD = dense_hidden(
            model.decoder, batch.ids_BS, positions_BS=batch.positions_BS, masked_BSS=batch.hidden_BSS
        )
        start, rows, owners = 0, [], []
        for index in indices:
            for branch in examples[index].branches:
                rows.append(start + branch.num_lead)
                owners.append((index, branch))
                start += len(branch.answer)
        hidden_ND = hidden_BSD.flatten(0, 1)[batch.rows_N[rows]]
        probs = model.logits(hidden_ND)[:, token_ids].softmax(dim=1).cpu()
        unsafe, safe = order.index(RiskLevel.UNSAFE), order.index(RiskLevel.SAFE)
        for (index, branch), row in zip(owners, probs, strict=True):
            level = branch.level or RiskLevel.SAFE
            scores.append(Score(index, branch.side, float(row[unsafe]), 1 - float(row[safe]), level))
    return scores
