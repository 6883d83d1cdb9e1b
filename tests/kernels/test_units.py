"""Every unit that this machine runs computes what the scalar unit computes, bit for bit."""

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from streamward.kernels.bfloat16 import to_bfloat16
from streamward.kernels.heads import HeadKernel, pad_outputs, softmax
from streamward.kernels.library import Kernels, available_units, load_kernels
from streamward.kernels.quantization import QuantizedWeight, dequantize, quantize
from streamward.kernels.weights import PackedWeight
from tests.kernels.harness import SHAPES, Mode, RandomWeights, decoder_of, read_in_random_cuts

UNITS = available_units()
SCALAR = load_kernels("scalar")
LENGTHS = (5, 130, 64, 201)

all_units = pytest.mark.parametrize("kernels", [load_kernels(unit) for unit in UNITS], ids=UNITS)
other_units = pytest.mark.parametrize("kernels", [load_kernels(unit) for unit in UNITS[1:]], ids=UNITS[1:])


def same_bits(left: NDArray[np.generic], right: NDArray[np.generic]) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def random_int8(rng: np.random.Generator, outputs: int, inputs: int, *, extremes: bool) -> QuantizedWeight:
    """Integers anywhere within +-127, or only there."""
    choices = np.array([-127, 127] if extremes else range(-127, 128), np.int8)
    scales = to_bfloat16(rng.uniform(1e-4, 1e-2, (outputs, inputs // 64)).astype(np.float32))
    return QuantizedWeight(rng.choice(choices, (outputs, inputs)), scales)


@other_units
@pytest.mark.parametrize("extremes", [False, True])
@pytest.mark.parametrize(
    ("outputs", "inputs", "rows"),
    [(64, 64, 1), (192, 576, 3), (128, 1536, 4), (64, 12288, 2), (960, 576, 17), (320, 1024, 50), (64, 3072, 200)],
)
def test_products_of_eight_bits(outputs: int, inputs: int, rows: int, extremes: bool, kernels: Kernels) -> None:
    rng = np.random.default_rng(outputs + inputs + rows)
    weight = random_int8(rng, outputs, inputs, extremes=extremes)
    x = rng.standard_normal((rows, inputs), np.float32)
    if extremes:
        x = np.sign(x)
        x[0, :64] = 0
        x[-1, 1] = 1e30
    found, expected = (PackedWeight.int8(weight, kernels=each).matmul(x) for each in (kernels, SCALAR))
    assert same_bits(found, expected)


@all_units
def test_sums_of_eight_bits_are_exact_at_the_extremes(kernels: Kernels) -> None:
    """All activations of a token become +-127, all weights are +-127: every sum of a group is as large as it can be."""
    signs = np.where(np.random.default_rng(1).random((64, 128)) < 0.5, -1, 1)
    x = np.zeros((3, 128), np.float32)
    x[:, 0] = x[:, 64] = 5.0  # of a single value, the transform makes 64 of one magnitude
    weight = QuantizedWeight((127 * signs).astype(np.int8), to_bfloat16(np.ones((64, 2), np.float32)))
    expected = 5.0 * 127 * np.stack([signs[:, :64].sum(1) + signs[:, 64:].sum(1)] * 3)
    np.testing.assert_allclose(PackedWeight.int8(weight, kernels=kernels).matmul(x), expected, rtol=1e-6, atol=1e-3)


@other_units
@pytest.mark.parametrize(("outputs", "inputs", "rows"), [(64, 64, 1), (128, 576, 5), (192, 3072, 12), (64, 128, 30)])
def test_products_of_bfloat16(outputs: int, inputs: int, rows: int, kernels: Kernels) -> None:
    rng = np.random.default_rng(inputs)
    weight = to_bfloat16(rng.standard_normal((outputs, inputs), np.float32))
    x = rng.standard_normal((rows, inputs), np.float32)
    found, expected = (PackedWeight.bfloat16(weight, kernels=each).matmul(x) for each in (kernels, SCALAR))
    assert same_bits(found, expected)


@all_units
def test_products_are_those_of_the_weights(kernels: Kernels) -> None:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((128, 640), np.float32)
    x = rng.standard_normal((7, 640), np.float32)
    for is_gated in (False, True):
        packed = PackedWeight.bfloat16(to_bfloat16(weight), kernels=kernels, is_gated=is_gated)
        np.testing.assert_allclose(packed.matmul(x), x @ weight.T, atol=0.3)
        rounded = PackedWeight.int8(quantize(weight, kernels=kernels), kernels=kernels, is_gated=is_gated)
        np.testing.assert_allclose(rounded.matmul(x), x @ weight.T, atol=1.2)


@all_units
def test_a_product_does_not_depend_on_the_other_rows(kernels: Kernels) -> None:
    rng = np.random.default_rng(5)
    weight = quantize(rng.standard_normal((192, 576), np.float32))
    x = rng.standard_normal((61, 576), np.float32)
    for packed in (
        PackedWeight.int8(weight, kernels=kernels),
        PackedWeight.bfloat16(to_bfloat16(dequantize(weight)), kernels=kernels),
    ):
        together = packed.matmul(x)
        assert all(same_bits(packed.matmul(x[row : row + 1])[0], together[row]) for row in (0, 30, 60))


@other_units
def test_weights_are_rounded_alike(kernels: Kernels) -> None:
    rng = np.random.default_rng(11)
    weight = rng.standard_normal((64, 256), np.float32) * np.float32(10.0) ** rng.integers(-30, 3, (64, 1))
    weight = weight.astype(np.float32)
    weight[3, :64] = 0
    for values in (weight, to_bfloat16(weight)):
        found, expected = quantize(values, kernels=kernels), quantize(values, kernels=SCALAR)
        assert same_bits(found.values, expected.values)
        assert same_bits(found.scales, expected.scales)
        assert same_bits(dequantize(found, kernels=kernels), dequantize(expected, kernels=SCALAR))


@all_units
def test_bfloat16_is_rounded_to_nearest_even(kernels: Kernels) -> None:
    bits = np.random.default_rng(2).integers(0, 2**32, 4096, dtype=np.uint32)
    special = np.array(
        [0, 0x80000000, 1, 0x007FFFFF, 0x00800000, 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000], np.uint32
    )
    x = np.concatenate((bits, special, special | np.uint32(0x80000000), np.array([0x7FC00001, 0xFF800001], np.uint32)))
    rounded = np.empty(len(x), np.uint16)
    kernels.call("round_bf16", x.ctypes.data, rounded.ctypes.data, len(x))
    assert same_bits(rounded, to_bfloat16(x.view(np.float32)))


@other_units
@pytest.mark.parametrize("labels", [3, 9, 40])
def test_heads_and_probabilities(labels: int, kernels: Kernels) -> None:
    rng = np.random.default_rng(labels)
    pre, out = (to_bfloat16(rng.standard_normal(size, np.float32)) for size in ((64, 128), (labels, 64)))
    hidden, norm = rng.standard_normal((5, 128), np.float32), rng.standard_normal(64, np.float32)
    found = []
    for each in (kernels, SCALAR):
        layers = (PackedWeight.bfloat16(weight, kernels=each) for weight in (pre, pad_outputs(out)))
        logits = HeadKernel(next(layers), norm, next(layers), eps=1e-6).logits(hidden)[:, :labels]
        found.append(softmax(logits, kernels=each))
    assert same_bits(found[0], found[1])
    np.testing.assert_allclose(found[0].sum(axis=1), 1, rtol=1e-6)


MODES = {
    "int8": Mode(),
    "int8, an exact layer": Mode(exact_layers=(0,)),
    "int8, int8 cache": Mode(int8_cache=True),
    "int8, int8 cache, an exact layer": Mode(int8_cache=True, exact_layers=(1,)),
    "bf16": Mode(is_int8=False),
}
REFERENCES: dict[tuple[str, str], str] = {}


def digest(kernels: Kernels, family: str, mode: str, *, seed: int) -> str:
    decoder = decoder_of(RandomWeights(SHAPES[family]), kernels=kernels, mode=MODES[mode])
    states = read_in_random_cuts(decoder, LENGTHS, seed=seed, taps=(0, 1))
    assert np.isfinite(states).all()
    return hashlib.sha256(states.tobytes()).hexdigest()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", SHAPES)
@other_units
def test_hidden_states_of_streams_in_random_cuts(kernels: Kernels, family: str, mode: str) -> None:
    """The units also read the streams in different cuts, batches and pages."""
    if (family, mode) not in REFERENCES:
        REFERENCES[family, mode] = digest(SCALAR, family, mode, seed=1)
    assert digest(kernels, family, mode, seed=2) == REFERENCES[family, mode]
