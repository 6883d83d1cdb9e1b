"""The decoder shared by serving and training, and dense attention over padded batches."""

# Shapes: T tokens, packed; D hidden size; H query heads; K key/value heads; d head size; B sequences of S tokens.

import torch
from torch import Tensor, nn

from streamward.model.config import ModelConfig
from streamward.model.layers import Attend, DecoderLayer, RMSNorm, Rotation, rotary_table


class Decoder(nn.Module):
    """Token ids to final hidden states. Where keys and values live is the caller's business (`Attend`)."""

    cos_Pr: Tensor
    sin_Pr: Tensor
    sliding_cos_Pr: Tensor | None
    sliding_sin_Pr: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = _embedding(config)
        self.layers = nn.ModuleList(DecoderLayer(config, index=index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.fill_rotary_table()

    def fill_rotary_table(self) -> None:
        """Compute cosines and sines anew: `to_empty` leaves them without values."""
        cos_Pr, sin_Pr = rotary_table(self.config, theta=self.config.rope_theta)
        self.register_buffer("cos_Pr", cos_Pr, persistent=False)
        self.register_buffer("sin_Pr", sin_Pr, persistent=False)
        window = self.config.sliding_window
        sliding = (None, None) if window is None else rotary_table(self.config, theta=window.rope_theta)
        self.register_buffer("sliding_cos_Pr", sliding[0], persistent=False)
        self.register_buffer("sliding_sin_Pr", sliding[1], persistent=False)

    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """Return the hidden state of each token after the final norm, [T, D].

        Args:
            ids_T: Token ids, int64, of any number of sequences one after the other.
            positions_T: Position of each token in its own sequence, int64, below `max_positions`.
            attend: Attention over each token's own sequence.
        """
        hidden_TD: Tensor = self.embed(ids_T)
        if self.config.is_gemma:  # the factor is rounded to the dtype first, as where the weights were made
            hidden_TD = hidden_TD * torch.tensor(self.config.hidden_size**0.5, dtype=hidden_TD.dtype)
        rotation = _rotation(self.cos_Pr, self.sin_Pr, positions_T, hidden_TD.dtype)
        sliding = rotation
        if self.sliding_cos_Pr is not None and self.sliding_sin_Pr is not None:
            sliding = _rotation(self.sliding_cos_Pr, self.sliding_sin_Pr, positions_T, hidden_TD.dtype)
        for layer in self.layers:
            hidden_TD = layer(hidden_TD, sliding if layer.is_sliding else rotation, attend)
        return self.norm(hidden_TD)  # type: ignore[no-any-return]  # nn.Module calls are untyped


def _rotation(cos_Pr: Tensor, sin_Pr: Tensor, positions_T: Tensor, dtype: torch.dtype) -> Rotation:
    return Rotation(cos_Pr[positions_T].unsqueeze(1).to(dtype), sin_Pr[positions_T].unsqueeze(1).to(dtype))


def _embedding(config: ModelConfig) -> nn.Embedding:
    """Make an embedding; on the meta device without initial values, which would load torch's compiler (2 seconds)."""
    weight = torch.empty(config.vocab_size, config.hidden_size)
    embedding: nn.Embedding = nn.Embedding.from_pretrained(weight if weight.is_meta else weight.normal_(), freeze=False)
    return embedding


class DenseAttention:
    """Causal attention inside B sequences of S tokens each, nothing before them. Pad on the right.

    Query heads that share a key head are folded into rows: on CPU that trains faster than the fused kernel, whose
    backward pass dominates at a few hundred tokens.
    """

    def __init__(self, config: ModelConfig, positions_BS: Tensor, *, masked_BSS: Tensor | None = None) -> None:
        """Prepare the masks.

        Args:
            config: Config of the decoder.
            positions_BS: Position of each token in its sequence.
            hidden_BSS: Keys that each query must not see, instead of those after it; every query sees itself.
        """
        self.batch_size, length = positions_BS.shape
        causal_SS = torch.ones(length, length, dtype=torch.bool, device=positions_BS.device).triu(1)
        self._config = config
        self._masked = causal_SS if masked_BSS is None else masked_BSS[:, None, None]
        self._sliding_masked = self._masked
        if config.sliding_window is not None and length > config.sliding_window.tokens:
            distance_BSS = positions_BS[:, :, None] - positions_BS[:, None, :]
            self._sliding_masked = self._masked | (distance_BSS >= config.sliding_window.tokens)[:, None, None]

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        """Return the attended values, [T, H * d]."""
        hidden = self._masked if self._config.window_of(layer) is None else self._sliding_masked
        num_kv_heads, head_dim = k_TKd.shape[1:]
        length = q_THd.shape[0] // self.batch_size
        q = q_THd.view(self.batch_size, length, num_kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4)
        q_NGd = q.reshape(self.batch_size * num_kv_heads, -1, head_dim)
        k_NSd, v_NSd = self._by_head(k_TKd), self._by_head(v_TKd)
        scores = torch.bmm(q_NGd, k_NSd.transpose(1, 2)).mul_(head_dim**-0.5)
        scores = scores.view(*q.shape[:4], length).masked_fill_(hidden, float("-inf"))
        weights_NGS = scores.softmax(dim=-1).view(*q_NGd.shape[:2], length)
        out = torch.bmm(weights_NGS, v_NSd).view(self.batch_size, num_kv_heads, -1, length, head_dim)
        return out.permute(0, 3, 1, 2, 4).reshape(q_THd.shape[0], -1)

    def _by_head(self, x_TKd: Tensor) -> Tensor:
        x_BSKd = x_TKd.view(self.batch_size, -1, *x_TKd.shape[1:])
        return x_BSKd.transpose(1, 2).flatten(0, 1)


def dense_hidden(
    decoder: Decoder, ids_BS: Tensor, *, positions_BS: Tensor | None = None, masked_BSS: Tensor | None = None
) -> Tensor:
    """Run whole right-padded sequences through a decoder; hidden states [B, S, D].

    Args:
        decoder: Runs them.
        ids_BS: Token ids.
        positions_BS: Position of each token; 0, 1, 2 ... by default.
        hidden_BSS: As in `DenseAttention`.
    """
    batch_size, length = ids_BS.shape
    if positions_BS is None:
        positions_BS = torch.arange(length, device=ids_BS.device).expand(batch_size, length)
    attend = DenseAttention(decoder.config, positions_BS, masked_BSS=masked_BSS)
    hidden_TD: Tensor = decoder(ids_BS.reshape(-1), positions_BS.reshape(-1), attend)
    return hidden_TD.view(batch_size, length, -1)
