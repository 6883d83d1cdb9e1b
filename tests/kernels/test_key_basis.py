"""What a decoder's keys and queries have in common, as the reference decoder shows it."""

import numpy as np
import pytest

from streamward.kernels.key_basis import key_tables
from streamward.kernels.library import load_kernels
from tests.kernels.harness import SHAPES, Mode, RandomWeights, decoder_of, random_ids, read_in_random_cuts
from tests.kernels.test_reference import reference_decoder

pytest.importorskip("torch")


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_tables_are_those_of_the_reference_decoder(family: str) -> None:
    from streamward.model.key_statistics import measure_key_basis
    from streamward.model.torch_parameters import decoder_parameters

    weights, ids = RandomWeights(SHAPES[family]), random_ids(80, seed=3)
    expected = measure_key_basis(decoder_parameters(reference_decoder(weights)), np.array(ids))
    found = key_tables(decoder_of(weights, kernels=load_kernels(), mode=Mode(is_int8=False)), ids)
    np.testing.assert_allclose(found.mean_key, expected.mean_key, atol=0.02)
    cosines = (found.outlier_direction * expected.outlier_direction).sum(axis=-1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=0.01)


def test_a_cache_of_eight_bits_is_nearer_to_the_full_one_with_its_own_tables() -> None:
    weights = RandomWeights(SHAPES["llama"])
    for layer in weights.layers:  # keys and queries that have much in common, as those of trained decoders have
        for name in ("q", "k"):
            layer[name] += 0.2 * np.abs(layer[name]).mean() * np.sign(layer["input_norm"])
    kernels = load_kernels()
    full = decoder_of(weights, kernels=kernels, mode=Mode(is_int8=False))
    expected = read_in_random_cuts(full, (100,), seed=1)
    tables = key_tables(full, random_ids(80, seed=3))
    errors = []
    for own in (False, True):
        for index, layer in enumerate(weights.layers):
            layer["mean_key"] = tables.mean_key[index] if own else np.zeros_like(layer["mean_key"])
            direction = tables.outlier_direction[index] if own else np.eye(1, 64, dtype=np.float32).repeat(2, 0)
            layer["outlier_direction"] = direction
        rounded = decoder_of(weights, kernels=kernels, mode=Mode(is_int8=False, int8_cache=True))
        errors.append(np.linalg.norm(read_in_random_cuts(rounded, (100,), seed=1) - expected))
    assert errors[1] < errors[0]
