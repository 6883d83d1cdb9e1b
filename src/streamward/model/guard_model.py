"""A Stream guard (decoder and token heads) and a Gen guard (decoder and language-model head)."""

import dataclasses

import torch
from torch import Tensor, nn

from streamward.model.config import ModelConfig
from streamward.model.decoder import Decoder
from streamward.model.guard_config import GuardConfig
from streamward.model.heads import SideHeads
from streamward.model.layers import plain_linear
from streamward.schema import Side


class GuardModel(nn.Module):
    """Decoder with heads for the prompt (read at its closing token) and the response (read at every token)."""

    def __init__(self, model_config: ModelConfig, guard_config: GuardConfig) -> None:
        super().__init__()
        self.guard_config = guard_config
        self.decoder = Decoder(model_config)
        self.prompt_heads = self._side_heads(Side.PROMPT)
        self.response_heads = self._side_heads(Side.RESPONSE)

    def heads(self, side: Side) -> SideHeads:
        """Return the heads of one side."""
        return self.prompt_heads if side is Side.PROMPT else self.response_heads

    def set_risk_offsets(self, side: Side, offsets: tuple[float, ...]) -> None:
        """Fold an operating point into a side's logits, in place of its thresholds."""
        config = self.guard_config
        points = {other: point for other, point in config.operating_points.items() if other is not side}
        self.guard_config = dataclasses.replace(
            config, operating_points=points, risk_offsets={**config.risk_offsets, side: offsets}
        )
        self.heads(side).risk_offset_R = torch.tensor(offsets)

    def _side_heads(self, side: Side) -> SideHeads:
        config = self.decoder.config
        return SideHeads(
            self.guard_config.labels(side),
            hidden_size=config.hidden_size,
            inner_size=self.guard_config.inner_size,
            eps=config.rms_norm_eps,
            risk_offsets=self.guard_config.risk_offsets.get(side),
        )


class CausalLM(nn.Module):
    """Decoder with a language-model head, tied to the embedding where the checkpoint ties it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.decoder = Decoder(config)
        self.lm_head = plain_linear(config.hidden_size, config.vocab_size)
        if config.has_tied_embeddings:
            self.lm_head.weight = self.decoder.embed.weight

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Return next-token logits [T, vocabulary], float32."""
        logits: Tensor = self.lm_head(hidden_TD)
        return logits.float()
