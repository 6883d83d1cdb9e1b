"""The kernels give what the decoder in torch gives, up to the rounding of weights, activations and cache."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamward.kernels.bfloat16 import from_bfloat16, to_bfloat16
from streamward.kernels.library import load_kernels
from streamward.kernels.quantization import dequantize, quantize
from tests.kernels.harness import (
    MAX_POSITIONS,
    SHAPES,
    VOCAB_SIZE,
    Floats,
    Mode,
    RandomWeights,
    decoder_of,
    random_ids,
    read_in_random_cuts,
)

if TYPE_CHECKING:
    from streamward.model.decoder import Decoder

torch = pytest.importorskip("torch")

LENGTHS = (5, 130, 64, 201)


def reference_decoder(weights: RandomWeights) -> "Decoder":
    """Make the decoder in torch, float32, of weights as they are packed."""
    from streamward.model.config import ModelConfig, SlidingWindow
    from streamward.model.decoder import Decoder

    shape = weights.shape
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=shape.hidden_size,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate_size,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        max_positions=MAX_POSITIONS,
        has_tied_embeddings=True,
        has_qk_norm=shape.family != "llama",
        sliding_window=SlidingWindow(shape.window, 2, 1e4) if shape.window is not None else None,
    )
    decoder = Decoder(config).eval()

    def put(parameter: Any, value: Floats) -> None:  # torch is not imported where there is none
        assert parameter.shape == value.shape
        parameter.data = torch.from_numpy(value.copy())

    def rounded(layer: dict[str, Floats], *names: str) -> Floats:
        return from_bfloat16(to_bfloat16(np.concatenate([layer[name] for name in names])))

    embeddings = from_bfloat16(to_bfloat16(weights.embeddings))
    put(decoder.embed.weight, dequantize(quantize(weights.embeddings)) if shape.is_gemma else embeddings)
    put(decoder.norm.weight, weights.norm)
    modules: Iterable[Any] = decoder.layers  # nn.Module tells no attribute's type
    for module, layer in zip(modules, weights.layers, strict=True):
        put(module.qkv.weight, rounded(layer, "q", "k", "v"))
        put(module.out.weight, rounded(layer, "out"))
        put(module.gate_up.weight, rounded(layer, "gate", "up"))
        put(module.down.weight, rounded(layer, "down"))
        for name in ("input_norm", "post_norm", "q_norm", "k_norm", "attention_out_norm", "mlp_out_norm"):
            norm = getattr(module, name)
            if norm is not None:
                put(norm.weight, layer[name])
    return decoder


def reference_states(weights: RandomWeights) -> tuple[Floats, Floats]:
    """Run one full pass over each stream in float32: states of all tokens after the first layer, and at the end."""
    from streamward.model.decoder import dense_hidden

    decoder = reference_decoder(weights)
    first: list[Floats] = []
    decoder.layers[0].register_forward_hook(lambda _, __, out: first.append(out.numpy()))
    with torch.inference_mode():
        last = [
            dense_hidden(decoder, torch.tensor([random_ids(length, seed=stream)]))[0].numpy()
            for stream, length in enumerate(LENGTHS)
        ]
    return np.concatenate(first), np.concatenate(last)


@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [
        (Mode(is_int8=False), 0.01),
        (Mode(is_int8=False, is_fast=True), 0.02),
        (Mode(), 0.04),
        (Mode(is_int8=False, int8_cache=True), 0.04),
        (Mode(int8_cache=True), 0.05),
    ],
    ids=["bf16", "bf16 fast", "int8", "int8 cache", "int8 both"],
)
@pytest.mark.parametrize("family", SHAPES)
def test_streams_in_random_cuts_get_the_states_of_one_pass(family: str, mode: Mode, tolerance: float) -> None:
    weights = RandomWeights(SHAPES[family])
    expected = reference_states(weights)
    found = read_in_random_cuts(decoder_of(weights, kernels=load_kernels(), mode=mode), LENGTHS, seed=3, taps=(0,))
    for states, reference in zip(found, expected, strict=True):
        error = np.linalg.norm(states - reference) / np.linalg.norm(reference)
        assert error < tolerance
