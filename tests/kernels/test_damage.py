"""A number that is not finite shows in all that read it, and in no other stream: no unit hides a damaged guard."""

import numpy as np
import pytest

from streamward.kernels.library import Kernels, available_units, load_kernels
from tests.kernels.harness import SHAPES, Mode, RandomWeights, decoder_of, random_ids, read_in_random_cuts

LENGTHS = (40, 30)
UNITS = available_units()


@pytest.mark.parametrize("kernels", [load_kernels(unit) for unit in UNITS], ids=UNITS)
@pytest.mark.parametrize("int8_cache", [False, True], ids=["full cache", "int8 cache"])
@pytest.mark.parametrize("is_int8", [False, True], ids=["bf16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_it_shows_where_it_was_read(value: float, is_int8: bool, int8_cache: bool, kernels: Kernels) -> None:
    mode = Mode(is_int8=is_int8, int8_cache=int8_cache)
    weights = RandomWeights(SHAPES["llama"])
    expected = read_in_random_cuts(decoder_of(weights, kernels=kernels, mode=mode), LENGTHS, seed=1)[0]
    ids = [random_ids(length, seed=stream) for stream, length in enumerate(LENGTHS)]
    bad = next(each for each in ids[0][10:] if each not in ids[1] and each not in ids[0][:10])
    first = ids[0].index(bad)
    weights.embeddings[bad, 7] = value
    found = read_in_random_cuts(decoder_of(weights, kernels=kernels, mode=mode), LENGTHS, seed=2)[0]
    finite = np.isfinite(found[:first]).all(axis=1)  # tokens before it that came in the same chunk may be lost too
    assert np.array_equal(found[:first][finite], expected[:first][finite])
    assert np.array_equal(found[LENGTHS[0] :], expected[LENGTHS[0] :])
    assert not np.isfinite(found[first : LENGTHS[0]]).all(axis=1).any()
