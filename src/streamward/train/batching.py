"""Examples of similar length in padded batches."""

# Shapes: B sequences of S tokens; N targets of a batch; C categories.

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from streamward.model.guard_config import GuardConfig
from streamward.schema import Side
from streamward.train.examples import Example


@dataclass(frozen=True, slots=True)
class SideTargets:
    """Targets of one side in a batch.

    Attributes:
        rows_N: Index of each target's token in the batch flattened to B * S.
        levels_N: Index of the right risk logit.
        weights_N: Share in the batch's loss.
        categories_NC: 1 for acceptable categories; all 0 where unknown.
        owners_N: Which example of the batch each belongs to.
    """

    rows_N: Tensor
    levels_N: Tensor
    weights_N: Tensor
    categories_NC: Tensor
    owners_N: Tensor

    def to(self, device: torch.device) -> "SideTargets":
        """Return the same on a device."""
        return SideTargets(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded ids [B, S] and the targets of both sides."""

    ids_BS: Tensor
    targets: dict[Side, SideTargets]
    num_examples: int

    def to(self, device: torch.device) -> "Batch":
        """Return the same on a device."""
        targets = {side: each.to(device) for side, each in self.targets.items()}
        return Batch(self.ids_BS.to(device), targets, self.num_examples)


def plan_batches(lengths: Sequence[int], *, max_tokens: int, seed: int) -> list[list[int]]:
    """Group examples of similar length so that none pads beyond `max_tokens`, in random order."""
    rng = random.Random(seed)
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index] // 8, rng.random()))
    batches: list[list[int]] = []
    current: list[int] = []
    for index in order:
        if current and lengths[index] * (len(current) + 1) > max_tokens:
            batches.append(current)
            current = []
        current.append(index)
    if current:
        batches.append(current)
    rng.shuffle(batches)
    return batches


def collate(examples: Sequence[Example], config: GuardConfig) -> Batch:
    """Pad examples and gather their targets."""
    length = max(len(example.ids) for example in examples)
    ids_BS = torch.zeros(len(examples), length, dtype=torch.int64)
    for row, example in enumerate(examples):
        ids_BS[row, : len(example.ids)] = torch.tensor(example.ids)
    targets = {side: _side_targets(examples, side, config=config, length=length) for side in Side}
    return Batch(ids_BS, targets, len(examples))


def _side_targets(examples: Sequence[Example], side: Side, *, config: GuardConfig, length: int) -> SideTargets:
    labels = config.labels(side)
    level_index = {level: index for index, level in enumerate(labels.risk_levels)}
    category_index = {category: index for index, category in enumerate(labels.categories)}
    found = [
        (row * length + target.position, target, example.weight)
        for row, example in enumerate(examples)
        for target in example.targets
        if target.side is side
    ]
    categories_NC = torch.zeros(len(found), len(labels.categories))
    for index, (_, target, _) in enumerate(found):
        for category in target.categories:
            if category in category_index:
                categories_NC[index, category_index[category]] = 1.0
    return SideTargets(
        torch.tensor([row for row, _, _ in found], dtype=torch.int64),
        torch.tensor([level_index[target.level] for _, target, _ in found], dtype=torch.int64),
        torch.tensor([target.weight * weight for _, target, weight in found]),
        categories_NC,
        torch.tensor([row // length for row, _, _ in found], dtype=torch.int64),
    )
