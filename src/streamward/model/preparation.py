"""Rounds the weights of a guard to 8 bits, once, when it is made or first used. Pure numpy.

1. SmoothQuant: a few channels of the hidden states are ten to fifty times larger than the rest and spoil the scale of
   their group; factors move them from the activations into the weights (Xiao et al., arXiv 2211.10438). All factors are
   powers of two, so this changes no bit of what the decoder computes.
2. Each group of 64 inputs is Hadamard-transformed (Ashkboos et al., QuaRot, arXiv 2404.00456) and rounded to +-127
   multiples of a bfloat16 scale.
3. Sensitive layers stay bfloat16. Two matrices of each layer write to the residual stream; in small models a few of
   them write far more than the rest, or something far larger for one token than for others, and rounding one of these
   costs as much as rounding ten others.
"""

# Shapes: T tokens; O outputs; I inputs; D hidden size.

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamward.errors import ConfigError
from streamward.kernels.bfloat16 import from_bfloat16, to_bfloat16
from streamward.kernels.quantization import GROUP, QuantizedWeight, dequantize, hadamard_transform, quantize
from streamward.model.calibration import Embedding, calibration_ids
from streamward.model.config import ModelConfig
from streamward.model.key_statistics import KeyStatistics
from streamward.model.parameters import EMBEDDING, LM_HEAD, ModelParameters, Weight, check_finite
from streamward.model.reference_decoder import Floats, ReferenceDecoder, rms_norm

_SHARE = 0.7  # of an activation's range that goes into the weights; 0.5 and 0.9 left larger errors
_SMALLEST = 1e-5
_MIN_GAIN = 1.0  # octaves
_MAX_ERROR = 5e-6
"""Maximum error relative to the residual power. Two of 36 layers of `stream-135m` exceed it (docs/speed.md)."""
_NORM_BEFORE = {"qkv": "input_norm", "gate_up": "post_norm"}
_NORM_AFTER = {"out": "attention_out_norm", "down": "mlp_out_norm"}  # Gemma's
_LINEAR = re.compile(r"decoder\.layers\.\d+\.(qkv|out|gate_up|down)")
Matrices = Mapping[str, NDArray[np.float32]]


def prepare(parameters: ModelParameters, *, keeps_exact_layers: bool = False) -> ModelParameters:
    """Return a model with weights of 8 bits; `prepared.save_prepared` writes it.

    Args:
        parameters: In bfloat16.
        keeps_exact_layers: Whether sensitive layers keep the weights they have. Otherwise they too get the rounded
            values, in bfloat16, and only their activations are not rounded: so does a guard whose operating points were
            calibrated on rounded weights expect it.

    Raises:
        ConfigError: A matrix has inputs that are not a multiple of 64.
        CheckpointError: A weight is not finite.
    """
    check_finite(parameters)
    linears = {name: _float32(parameters, f"{name}.weight") for name in linear_names(parameters.config)}
    for name, weight in linears.items():
        if weight.shape[1] % GROUP:
            raise ConfigError(f"8-bit weights need inputs that are multiples of {GROUP}; {name} has {weight.shape[1]}")
    ids_T = calibration_ids(parameters.config)
    vectors = dict(parameters.vectors)
    smooth(parameters, linears, vectors, ids_T)
    rounded: dict[str, QuantizedWeight] = {name: quantize(weight) for name, weight in linears.items()}
    exact = dict(linears) if keeps_exact_layers else {name: dequantize(each) for name, each in rounded.items()}
    statistics = KeyStatistics()
    sensitive = sensitive_layers(replace(parameters, vectors=vectors), exact, rounded, ids_T, statistics)
    weights: dict[str, tuple[Weight, ...]] = {}
    for name in parameters.weights:
        layer = name.removesuffix(".weight")
        if layer in rounded:
            weights[name] = (to_bfloat16(exact[layer]) if layer in sensitive else rounded[layer],)
        elif name in (EMBEDDING, LM_HEAD):
            weights[name] = (quantize(parameters.bfloat16(name)),)
        else:
            weights[name] = (parameters.bfloat16(name),)
    return ModelParameters(parameters.config, parameters.guard, weights, vectors, statistics.basis())


def linear_names(config: ModelConfig) -> list[str]:
    """Return the names of the matrices in the decoder's layers."""
    return [f"decoder.layers.{index}.{kind}" for index in range(config.num_layers) for kind in _KINDS]


_KINDS = ("qkv", "out", "gate_up", "down")


def smooth(
    parameters: ModelParameters,
    linears: dict[str, NDArray[np.float32]],
    vectors: dict[str, NDArray[np.float32]],
    ids_T: NDArray[np.int64],
) -> None:
    """Scale the channels between norms and the matrices behind them, in place.

    Args:
        parameters: Where the embeddings are.
        linears: Matrices by name.
        vectors: Norms by name.
        ids_T: Token ids to measure the channels with.
    """
    ranges: dict[str, Floats] = {}

    def linear(name: str, x_TI: Floats) -> Floats:
        ranges[name] = np.abs(x_TI[1:]).max(axis=0)  # without the first token, which is unlike the others
        return x_TI @ linears[name].T.astype(np.float64)

    ReferenceDecoder(parameters.config, vectors=vectors, linear=linear, embed=Embedding(parameters))(ids_T)
    for name in linears:
        layer, _, kind = name.rpartition(".")
        if kind in _NORM_BEFORE:
            factors_I = _factors(ranges[name], linears[name])
            norm = f"{layer}.{_NORM_BEFORE[kind]}.weight"
            vectors[norm] = vectors[norm] / factors_I
            linears[name] = linears[name] * factors_I


def _factors(range_I: Floats, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return powers of two for the columns, 1 where a range is not finite.

    All are 1 where no column is off by a factor of two, so smoothing a second time changes nothing.
    """
    columns_I = np.abs(weight).max(axis=0).astype(np.float64)
    factors_I = np.maximum(range_I, _SMALLEST) ** _SHARE / np.maximum(columns_I, _SMALLEST) ** (1 - _SHARE)
    logs_I = np.log2(factors_I)
    logs_I = logs_I - logs_I.mean()
    logs_I = np.where(np.isfinite(logs_I), logs_I, 0.0)
    if np.abs(logs_I).max() < _MIN_GAIN:
        logs_I = np.zeros_like(logs_I)
    return np.exp2(np.round(logs_I)).astype(np.float32)


def sensitive_layers(
    parameters: ModelParameters,
    exact: Matrices,
    rounded: Mapping[str, QuantizedWeight],
    ids_T: NDArray[np.int64],
    statistics: KeyStatistics,
) -> set[str]:
    """Return the matrices whose rounding disturbs the residual stream too much.

    Args:
        parameters: Smoothed norms, and embeddings.
        exact: Smoothed matrices by name.
        rounded: The same in 8 bits.
        ids_T: Token ids to try them with.
        statistics: Is given the keys and queries of the same pass.
    """
    config, found = parameters.config, set[str]()
    stream = _Accumulated(Embedding(parameters)(ids_T))

    def linear(name: str, x_TI: Floats) -> Floats:
        exact_TO: Floats = x_TI @ exact[name].T.astype(np.float64)
        layer, _, kind = name.rpartition(".")
        if kind in _NORM_AFTER:
            rounded_TO = _fake_quantize(x_TI) @ dequantize(rounded[name]).T.astype(np.float64)
            written, with_error = exact_TO, rounded_TO
            norm = parameters.vectors.get(f"{layer}.{_NORM_AFTER[kind]}.weight")
            if norm is not None:
                written, with_error = (rms_norm(each, norm, config.rms_norm_eps) for each in (exact_TO, rounded_TO))
            if np.square(with_error - written).sum() > _MAX_ERROR * stream.add(written):
                found.add(name)
        return exact_TO

    decoder = ReferenceDecoder(config, vectors=parameters.vectors, linear=linear, embed=Embedding(parameters))
    decoder(ids_T, at_attention=statistics.note)
    return found


class _Accumulated:
    """The residual stream as it is written to."""

    def __init__(self, start_TD: Floats) -> None:
        self._sum_TD = start_TD

    def add(self, written_TD: Floats) -> float:
        """Add what a matrix writes; return the power of the stream afterwards."""
        self._sum_TD = self._sum_TD + written_TD
        return float(np.square(self._sum_TD).sum())


def _fake_quantize(x_TI: Floats) -> Floats:
    """Round activations as the kernels do: integers within +-127 with a scale per 64 Hadamard-transformed inputs."""
    groups = hadamard_transform(x_TI.astype(np.float32)).reshape(len(x_TI), -1, GROUP).astype(np.float64)
    scales = np.abs(groups).max(axis=-1, keepdims=True) / 127
    integers = np.round(groups / np.where(scales > 0, scales, 1.0))
    return hadamard_transform((integers * scales).reshape(x_TI.shape).astype(np.float32)).astype(np.float64)


def _float32(parameters: ModelParameters, name: str) -> NDArray[np.float32]:
    return from_bfloat16(parameters.bfloat16(name))
