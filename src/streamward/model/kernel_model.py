"""Packs the weights of a model for the native kernels."""

# Shapes: D hidden size; L layers; K key/value heads; d head size.

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamward.kernels.arena import WeightArena
from streamward.kernels.cache import is_supported
from streamward.kernels.decoder import DecoderWeights, LayerWeights
from streamward.kernels.heads import HeadKernel, pad_outputs
from streamward.kernels.library import Kernels
from streamward.kernels.quantization import QuantizedWeight
from streamward.kernels.weights import PackedWeight
from streamward.model.config import ModelConfig
from streamward.model.key_statistics import measure_key_basis
from streamward.model.parameters import EMBEDDING, LM_HEAD, ModelParameters, Weight, embedding_scale
from streamward.schema import Side

_SIZE_STEP = 64  # inputs and outputs of a matrix are multiples of it
_HEADS = {Side.PROMPT: "prompt_heads", Side.RESPONSE: "response_heads"}


def why_unsupported(config: ModelConfig, *, page_tokens: int, inner_size: int | None = None) -> str | None:
    """Say why the kernels cannot run a model of this shape; None if they can.

    Args:
        config: Shape of the decoder.
        page_tokens: Tokens of a page of the KV cache.
        inner_size: Width of the token heads; None if there are none.
    """
    group = config.num_heads // config.num_kv_heads
    if not is_supported(head_dim=config.head_dim, group=group, page_tokens=page_tokens):
        return (
            f"head size {config.head_dim} with {group} query heads per key head and pages of {page_tokens} tokens"
            " is not supported by the native kernels"
        )
    qkv_size = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    sizes = (config.hidden_size, config.intermediate_size, qkv_size, inner_size or _SIZE_STEP)
    odd = [size for size in sizes if size % _SIZE_STEP]
    return f"the native kernels need sizes that are multiples of {_SIZE_STEP}; the model has {odd[0]}" if odd else None


def pack_decoder(parameters: ModelParameters, kernels: Kernels, *, int8_cache: bool) -> DecoderWeights:
    """Pack a decoder, and give back the memory of the files it was read from.

    Args:
        parameters: Parameters of a shape for which `why_unsupported` returns None.
        kernels: Kernels of the unit that will run it.
        int8_cache: Whether the statistics of keys are needed that 8-bit caches use.
    """
    config, window = parameters.config, parameters.config.sliding_window
    thetas = [config.rope_theta] if window is None else [config.rope_theta, window.rope_theta]
    basis = (parameters.key_basis or measure_key_basis(parameters)) if int8_cache else None
    is_fast = not has_int8_weights(parameters)  # prepared guards compute the same on every CPU
    arena = WeightArena(sum(_packed_nbytes(parameters, name) for name in _linear_names(config)))
    layers = []
    for index in range(config.num_layers):
        name = f"decoder.layers.{index}."
        packed = {
            kind: pack(
                parameters.weights[f"{name}{kind}.weight"],
                kernels,
                is_gated=kind == "gate_up",
                is_fast=is_fast,
                arena=arena,
            )
            for kind in ("qkv", "out", "gate_up", "down")
        }
        layers.append(
            LayerWeights(
                qkv=packed["qkv"],
                out=packed["out"],
                gate_up=packed["gate_up"],
                down=packed["down"],
                input_norm=parameters.vectors[f"{name}input_norm.weight"],
                post_norm=parameters.vectors[f"{name}post_norm.weight"],
                q_norm=parameters.vectors.get(f"{name}q_norm.weight"),
                k_norm=parameters.vectors.get(f"{name}k_norm.weight"),
                attention_out_norm=parameters.vectors.get(f"{name}attention_out_norm.weight"),
                mlp_out_norm=parameters.vectors.get(f"{name}mlp_out_norm.weight"),
                window=config.window_of(index),
                rope=0 if config.window_of(index) is None else 1,
                mean_key=None if basis is None else basis.mean_key[index],
                outlier_direction=None if basis is None else basis.outlier_direction[index],
            )
        )
    parameters.release_pages()
    (embedding,) = parameters.weights[EMBEDDING]
    return DecoderWeights(
        layers=layers,
        norm=parameters.vectors["decoder.norm.weight"],
        embeddings=embedding,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        rope_thetas=thetas,
        max_positions=config.max_positions,
        activation="gelu_tanh" if config.is_gemma else "silu",
        embedding_scale=embedding_scale(config),
    )


def pack_heads(parameters: ModelParameters, side: Side, kernels: Kernels) -> HeadKernel:
    """Pack one side's heads: their logits are those of the risk levels, then those of the categories, then padding."""
    name = _HEADS[side]
    rows = [parameters.bfloat16(f"{name}.{kind}.weight") for kind in ("risk", "category")]
    pre, norm = parameters.bfloat16(f"{name}.pre.weight"), parameters.vectors[f"{name}.norm.weight"]
    return HeadKernel(
        PackedWeight.bfloat16(pre, kernels=kernels),
        norm,
        PackedWeight.bfloat16(pad_outputs(np.concatenate(rows)), kernels=kernels),
        eps=parameters.config.rms_norm_eps,
    )


def pack_lm_head(parameters: ModelParameters, kernels: Kernels) -> PackedWeight:
    """Pack the language-model head, which may be the embeddings."""
    name = EMBEDDING if parameters.config.has_tied_embeddings else LM_HEAD
    return pack(parameters.weights[name], kernels, is_fast=not has_int8_weights(parameters))


def pack(
    blocks: Sequence[Weight],
    kernels: Kernels,
    *,
    is_gated: bool = False,
    is_fast: bool = False,
    arena: WeightArena | None = None,
) -> PackedWeight:
    """Pack one matrix, whose blocks are all of 8 bits or all bfloat16."""
    rounded = [block for block in blocks if isinstance(block, QuantizedWeight)]
    exact = [block for block in blocks if not isinstance(block, QuantizedWeight)]
    assert not rounded or not exact, "the blocks of a matrix are of one kind"
    if rounded:
        return PackedWeight.int8(rounded, kernels=kernels, is_gated=is_gated, arena=arena)
    return PackedWeight.bfloat16(exact, kernels=kernels, is_gated=is_gated, is_fast=is_fast, arena=arena)


def has_int8_weights(parameters: ModelParameters) -> bool:
    """Return whether any matrix of the decoder has 8 bits."""
    return any(isinstance(block, QuantizedWeight) for blocks in parameters.weights.values() for block in blocks)


def _linear_names(config: ModelConfig) -> list[str]:
    return [
        f"decoder.layers.{index}.{kind}.weight"
        for index in range(config.num_layers)
        for kind in ("qkv", "out", "gate_up", "down")
    ]


def _packed_nbytes(parameters: ModelParameters, name: str) -> int:
    blocks = parameters.weights[name]
    shapes: list[tuple[int, ...]] = [_array(block).shape for block in blocks]
    is_int8 = isinstance(blocks[0], QuantizedWeight)
    return PackedWeight.packed_nbytes(sum(rows for rows, _ in shapes), shapes[0][1], is_int8=is_int8)


def _array(block: Weight) -> NDArray[np.int8] | NDArray[np.uint16]:
    return block.values if isinstance(block, QuantizedWeight) else block
