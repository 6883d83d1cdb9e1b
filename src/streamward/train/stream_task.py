"""Batches and loss of a Stream guard."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from streamward.model.decoder import dense_hidden
from streamward.model.guard_model import GuardModel
from streamward.train.batching import collate
from streamward.train.config import StreamTrainConfig
from streamward.train.examples import Example
from streamward.train.loss import LossWeights, joint_loss
from streamward.train.trainer import Loss, ParameterGroup, split_parameters


@dataclass(frozen=True, slots=True)
class StreamTask:
    """Token heads over a decoder with low-rank updates."""

    config: StreamTrainConfig
    model: GuardModel
    examples: Sequence[Example]
    device: torch.device

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [len(example.ids) for example in self.examples]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return updates and heads."""
        heads = [*self.model.prompt_heads.parameters(), *self.model.response_heads.parameters()]
        adapters, heads = split_parameters(self.model, heads)
        return [ParameterGroup(adapters, self.config.lr), ParameterGroup(heads, self.config.head_lr)]

    def loss(self, indices: Sequence[int]) -> Loss:
        """Return the joint loss of some examples."""
        batch = collate([self.examples[index] for index in indices], self.model.guard_config).to(self.device)
        hidden_BSD = dense_hidden(self.model.decoder, batch.ids_BS)
        weights = LossWeights(
            category=self.config.category_loss_weight,
            response=self.config.response_loss_weight,
            worst_token=self.config.worst_token_loss_weight,
            monotonicity=self.config.monotonicity_loss_weight,
        )
        return Loss(*joint_loss(self.model, hidden_BSD.flatten(0, 1), batch, weights=weights))
