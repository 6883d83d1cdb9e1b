"""Numbers in NumPy and tables: bfloat16, the Hadamard transform, rotary embeddings."""

import math

import numpy as np

from streamward.kernels.bfloat16 import from_bfloat16, to_bfloat16
from streamward.kernels.library import rope_table_into
from streamward.kernels.quantization import dequantize, hadamard_transform, quantize


def test_bfloat16_keeps_eight_bits_and_rounds_to_even() -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, -(2.0**100), np.inf], np.float32)
    assert from_bfloat16(to_bfloat16(x)).tolist() == [1.0, 1.0, 1.015625, -(2.0**100), math.inf]
    assert np.isnan(from_bfloat16(to_bfloat16(np.array([np.nan], np.float32)))).all()


def test_the_hadamard_transform_is_its_own_inverse_and_keeps_lengths() -> None:
    x = np.random.default_rng(1).standard_normal((3, 2, 128), np.float32)
    turned = hadamard_transform(x)
    np.testing.assert_allclose(hadamard_transform(turned), x, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    assert not np.allclose(turned, x)


def test_eight_bits_are_near_the_weight() -> None:
    weight = np.random.default_rng(2).standard_normal((64, 256), np.float32)
    rounded = quantize(weight)
    assert np.abs(rounded.values).max() == 127
    error = np.linalg.norm(dequantize(rounded) - weight) / np.linalg.norm(weight)
    assert error < 0.01


def test_rounding_again_changes_nothing() -> None:
    """So that weights which were trained as rounded ones, and stored in bfloat16, stay what they are."""
    weight = np.random.default_rng(4).standard_normal((64, 256), np.float32)
    rounded = quantize(weight)
    again = quantize(to_bfloat16(dequantize(rounded)))
    assert np.array_equal(again.values, rounded.values)
    assert np.array_equal(again.scales, rounded.scales)


def test_rotary_tables_are_correctly_rounded_cosines_and_sines_of_float32_angles() -> None:
    for theta, head_dim in ((1e4, 64), (1e6, 128), (1e5, 256)):
        positions = 3000
        cosines, sines = (np.empty((positions, head_dim // 2), np.float32) for _ in range(2))
        rope_table_into(
            theta,
            head_dim=head_dim,
            num_positions=positions,
            cosines=cosines.ctypes.data,
            sines=sines.ctypes.data,
        )
        frequencies = (theta ** -(np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
        angles = np.outer(np.arange(positions, dtype=np.float32), frequencies).astype(np.float64)
        for found, expected in ((cosines, np.cos(angles)), (sines, np.sin(angles))):
            assert np.mean(found != expected.astype(np.float32)) < 1e-4  # where NumPy's last bit decides
            np.testing.assert_allclose(found, expected, atol=7e-8)
