"""A decoder in numpy, float64, dense attention over one text: for calibration, and as a reference in tests."""

# Shapes: T tokens; D hidden size; H query heads; K key/value heads; d head size; F intermediate size; O outputs;
# I inputs.

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from streamward.model.config import ModelConfig

Floats = NDArray[np.float64]
Linear = Callable[[str, Floats], Floats]
"""Applies the matrix of a name [O, I] to inputs [T, I]."""


class ReferenceDecoder:
    """Token ids to hidden states. Slow and exact: what is computed does not depend on the CPU but for its last bits."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        vectors: Mapping[str, NDArray[np.float32]],
        linear: Linear,
        embed: Callable[[NDArray[np.int64]], Floats],
    ) -> None:
        """Take the parts of a model.

        Args:
            config: Shape.
            vectors: Weights of norms by name, as they multiply.
            linear: Applies a matrix of the decoder.
            embed: Returns the scaled embeddings [T, D] of token ids.
        """
        self._config = config
        self._vectors = vectors
        self._linear = linear
        self._embed = embed

    def __call__(
        self,
        ids_T: NDArray[np.int64],
        *,
        after_layer: Callable[[int, Floats], None] | None = None,
        at_attention: Callable[[int, Floats, Floats], None] | None = None,
    ) -> Floats:
        """Return the hidden states after the final norm, [T, D].

        Args:
            ids_T: Token ids of one text.
            after_layer: Is given the residual stream [T, D] after each layer.
            at_attention: Is given the rotated queries [T, H, d] and keys [T, K, d] of each layer.
        """
        config = self._config
        hidden_TD = self._embed(ids_T)
        for layer in range(config.num_layers):
            name = f"decoder.layers.{layer}."
            attended = self._attention(layer, self._norm(name + "input_norm", hidden_TD), at_attention)
            hidden_TD = hidden_TD + self._norm(name + "attention_out_norm", attended)
            gate_TF, up_TF = np.split(
                self._linear(name + "gate_up", self._norm(name + "post_norm", hidden_TD)), 2, axis=-1
            )
            down_TD = self._linear(name + "down", self._activation(gate_TF) * up_TF)
            hidden_TD = hidden_TD + self._norm(name + "mlp_out_norm", down_TD)
            if after_layer is not None:
                after_layer(layer, hidden_TD)
        return self._norm("decoder.norm", hidden_TD)

    def _attention(self, layer: int, x_TD: Floats, note: Callable[[int, Floats, Floats], None] | None) -> Floats:
        config, name = self._config, f"decoder.layers.{layer}."
        num_tokens, group = len(x_TD), config.num_heads // config.num_kv_heads
        qkv = self._linear(name + "qkv", x_TD).reshape(num_tokens, -1, config.head_dim)
        bounds = [config.num_heads, config.num_heads + config.num_kv_heads]
        q_THd, k_TKd, v_TKd = np.split(qkv, bounds, axis=1)
        window = config.window_of(layer)
        theta = config.rope_theta
        if window is not None and config.sliding_window is not None:
            theta = config.sliding_window.rope_theta
        cos_Tr, sin_Tr = _rotation(num_tokens, config.head_dim, theta)
        q_THd = _rotate(self._norm(name + "q_norm", q_THd), cos_Tr, sin_Tr)
        k_TKd = _rotate(self._norm(name + "k_norm", k_TKd), cos_Tr, sin_Tr)
        if note is not None:
            note(layer, q_THd, k_TKd)
        distance_TT = np.arange(num_tokens)[:, None] - np.arange(num_tokens)[None, :]
        is_hidden_TT = (distance_TT < 0) | (distance_TT >= (window or num_tokens))
        k_THd, v_THd = (np.repeat(each, group, axis=1) for each in (k_TKd, v_TKd))
        scores_HTT = q_THd.swapaxes(0, 1) @ k_THd.transpose(1, 2, 0) * config.head_dim**-0.5
        scores_HTT[:, is_hidden_TT] = -np.inf
        weights_HTT = np.exp(scores_HTT - scores_HTT.max(axis=-1, keepdims=True))
        weights_HTT /= weights_HTT.sum(axis=-1, keepdims=True)
        out_THd = (weights_HTT @ v_THd.swapaxes(0, 1)).swapaxes(0, 1)
        return self._linear(name + "out", out_THd.reshape(num_tokens, -1))

    def _norm(self, name: str, x: Floats) -> Floats:
        """Apply an RMSNorm over the last dimension; a family that has no norm of this name has none to apply."""
        weight = self._vectors.get(f"{name}.weight")
        if weight is None:
            return x
        return rms_norm(x, weight, self._config.rms_norm_eps)

    def _activation(self, x: Floats) -> Floats:
        if self._config.is_gemma:  # GELU, tanh approximation
            return np.asarray(0.5 * x * (1.0 + np.tanh((2.0 / np.pi) ** 0.5 * (x + 0.044715 * x**3))))
        return np.asarray(x / (1.0 + np.exp(np.minimum(-x, 700.0))))


def rms_norm(x: Floats, weight: NDArray[np.float32], eps: float) -> Floats:
    """Return x / rms(x) * weight over the last dimension."""
    return np.asarray(x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight)


def _rotation(num_tokens: int, head_dim: int, theta: float) -> tuple[Floats, Floats]:
    angles = np.outer(np.arange(num_tokens), theta ** -(np.arange(0, head_dim, 2) / head_dim))
    return np.cos(angles), np.sin(angles)


def _rotate(x_Thd: Floats, cos_Tr: Floats, sin_Tr: Floats) -> Floats:
    left, right = np.split(x_Thd, 2, axis=-1)
    cos, sin = cos_Tr[:, None], sin_Tr[:, None]
    return np.concatenate((left * cos - right * sin, right * cos + left * sin), axis=-1)
