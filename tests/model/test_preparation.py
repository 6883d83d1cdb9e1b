"""Weights are rounded once: smoothed, in 8 bits but for sensitive layers, and found again when rounded again."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from streamward.bundled.embedded import prepare_guard, prepare_int8
from streamward.errors import CheckpointError, ConfigError
from streamward.kernels.bfloat16 import from_bfloat16, to_bfloat16
from streamward.kernels.library import available_units
from streamward.kernels.quantization import QuantizedWeight, dequantize, quantize
from streamward.model.calibration import calibration_ids
from streamward.model.parameters import ModelParameters, load_published
from streamward.model.preparation import linear_names, prepare, smooth
from streamward.model.prepared import exact_layers, load_prepared
from tests.model.small import FAMILIES, hidden, relative_error, small_guard

pytestmark = pytest.mark.skipif(not available_units(), reason="the kernels were not built on this machine")
OF_BFLOAT16 = 0.0025  # the error of rounding to it, relative to all weights; that of 8 bits is 0.006


def with_large_channels() -> ModelParameters:
    parameters = small_guard()
    vectors = {name: vector.copy() for name, vector in parameters.vectors.items()}
    vectors["decoder.layers.0.input_norm.weight"][5] = 60.0
    vectors["decoder.layers.1.post_norm.weight"][70] = 40.0
    return dataclasses.replace(parameters, vectors=vectors)


def smoothed(parameters: ModelParameters) -> ModelParameters:
    linears = {name: from_bfloat16(parameters.bfloat16(f"{name}.weight")) for name in linear_names(parameters.config)}
    vectors = dict(parameters.vectors)
    smooth(parameters, linears, vectors, calibration_ids(parameters.config))
    weights = {**parameters.weights, **{f"{name}.weight": (to_bfloat16(each),) for name, each in linears.items()}}
    return dataclasses.replace(parameters, weights=weights, vectors=vectors)


def enlarged(parameters: ModelParameters, layer: str, factor: float) -> ModelParameters:
    name = f"{layer}.weight"
    larger = to_bfloat16(from_bfloat16(parameters.bfloat16(name)) * np.float32(factor))
    return dataclasses.replace(parameters, weights={**parameters.weights, name: (larger,)})


def test_smoothing_changes_no_output() -> None:
    plain = with_large_channels()
    np.testing.assert_allclose(hidden(smoothed(plain)), hidden(plain), rtol=1e-9, atol=1e-12)


def test_large_channels_come_closer_to_the_rest() -> None:
    vectors = smoothed(with_large_channels()).vectors
    for name, channel, before in (("0.input_norm", 5, 60.0), ("1.post_norm", 70, 40.0)):
        weight = vectors[f"decoder.layers.{name}.weight"]
        assert float(weight[channel] / np.median(weight)) < before / 8


def test_smoothing_twice_changes_nothing() -> None:
    once = smoothed(with_large_channels())
    twice = smoothed(once)
    for name, vector in once.vectors.items():
        np.testing.assert_array_equal(twice.vectors[name], vector)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prepared_guard_says_nearly_what_it_said(family: str) -> None:
    plain = small_guard(**FAMILIES[family])
    assert relative_error(hidden(prepare(plain)), hidden(plain)) < 0.05


def test_matrices_of_the_decoder_and_embeddings_have_8_bits_and_heads_do_not() -> None:
    prepared = prepare(small_guard())
    rounded = {name for name, (block,) in prepared.weights.items() if isinstance(block, QuantizedWeight)}
    assert {f"{name}.weight" for name in linear_names(prepared.config)} <= rounded
    assert "decoder.embed.weight" in rounded
    assert not any("heads" in name for name in rounded)
    assert prepared.key_basis is not None
    assert prepared.key_basis.mean_key.shape == (2, 2, 64)
    np.testing.assert_allclose(np.linalg.norm(prepared.key_basis.outlier_direction, axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("layer", ["decoder.layers.2.out", "decoder.layers.2.down"])
def test_a_layer_that_writes_much_keeps_16_bits(layer: str) -> None:
    plain = small_guard(num_layers=4)
    assert exact_layers(prepare(plain)) == []
    assert exact_layers(prepare(enlarged(plain, layer, 100))) == [layer]


def test_what_counts_is_the_share_of_the_whole_stream() -> None:
    plain = enlarged(small_guard(num_layers=4), "decoder.layers.3.down", 10)
    assert exact_layers(prepare(plain)) == ["decoder.layers.3.down"]
    louder = enlarged(plain, "decoder.layers.1.down", 100)
    assert exact_layers(prepare(louder)) == ["decoder.layers.1.down"]


def test_exact_layers_have_the_rounded_values_unless_they_are_to_be_kept() -> None:
    plain = enlarged(small_guard(num_layers=4), "decoder.layers.2.down", 100)
    name = "decoder.layers.2.down.weight"
    original = plain.bfloat16(name)
    np.testing.assert_array_equal(prepare(plain, keeps_exact_layers=True).bfloat16(name), original)
    np.testing.assert_array_equal(prepare(plain).bfloat16(name), to_bfloat16(dequantize(quantize(original))))


def test_what_was_rounded_is_rounded_to_the_same_integers() -> None:
    once = prepare(with_large_channels())
    again = prepare(dataclasses.replace(once, weights={name: (once.bfloat16(name),) for name in once.weights}))
    assert_same(again, once)


def test_a_damaged_norm_is_refused() -> None:
    plain = small_guard()
    broken = {name: vector.copy() for name, vector in plain.vectors.items()}
    broken["decoder.layers.1.input_norm.weight"][9] = np.nan
    with pytest.raises(CheckpointError, match=r"decoder.layers.1.input_norm.weight has values that are not finite"):
        prepare(dataclasses.replace(plain, vectors=broken))


def test_sizes_that_8_bits_do_not_serve_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"multiples of 64; decoder\.layers\.0\.qkv has 96"):
        prepare(small_guard(hidden_size=96))


@pytest.mark.parametrize("name", ["stream-135m", "stream-135m-small"])
def test_an_embedded_guard_in_16_bits_has_the_integers_of_the_one_in_8(name: str) -> None:
    """What training and vLLM get is what is served."""
    published: Path = prepare_guard(name)
    source = Path(prepare_int8.__code__.co_filename).parent / name
    assert_same(prepare(load_published(published)), load_prepared(prepare_int8(source)))


def assert_same(one: ModelParameters, other: ModelParameters) -> None:
    """The same integers; scales may differ where two of them round to neighbours of bfloat16."""
    assert exact_layers(one) == exact_layers(other)
    for name, (block,) in one.weights.items():
        (expected,) = other.weights[name]
        if isinstance(block, QuantizedWeight) and isinstance(expected, QuantizedWeight):
            assert np.count_nonzero(block.values != expected.values) <= max(1, 1e-4 * block.values.size), name
    for name, vector in one.vectors.items():
        np.testing.assert_array_equal(vector, other.vectors[name])
