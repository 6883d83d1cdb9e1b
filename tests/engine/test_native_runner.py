"""The native kernels give the verdicts of one full pass, the same bits however texts are cut and batched."""

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.native_runner import NativeModelRunner
from streamward.errors import ConfigError
from streamward.kernels.bfloat16 import from_bfloat16
from streamward.kernels.library import available_units, load_kernels
from streamward.model.parameters import ModelParameters
from streamward.model.preparation import prepare
from streamward.model.reference_decoder import rms_norm
from streamward.schema import Side
from tests.model.small import FAMILIES, hidden, small_guard

pytestmark = pytest.mark.skipif(not available_units(), reason="the kernels were not built on this machine")
LENGTHS = (5, 130, 64, 211)
Risks = dict[tuple[int, int], NDArray[np.float32]]
families = pytest.mark.parametrize("family", FAMILIES)
rounding = pytest.mark.parametrize(
    ("int8_weights", "int8_cache"), [(False, False), (True, False), (False, True), (True, True)]
)


def guard(family: str, *, int8_weights: bool = False) -> ModelParameters:
    parameters = small_guard(**FAMILIES[family])
    return prepare(parameters) if int8_weights else parameters


def make_engine(parameters: ModelParameters, *, unit: str | None = None, **limits: object) -> Engine:
    values = {"kv_cache_bytes": 2**23, "page_tokens": 16, "max_batch_tokens": 90, **limits}
    config = EngineConfig.model_validate(values)
    return Engine(config, NativeModelRunner(parameters, config, kernels=load_kernels(unit)))


def text(length: int) -> list[int]:
    return [(7 * length + 11 * index + index * index) % 50 for index in range(length)]


def judge_in_random_cuts(engine: Engine, *, seed: int = 3) -> Risks:
    """Feed streams of `LENGTHS` side by side; return the risk of each (stream, position)."""
    rng = random.Random(seed)
    left = {engine.open(): text(length) for length in LENGTHS}
    found: Risks = {}
    while any(left.values()):
        for stream, ids in left.items():
            count = min(rng.choice([1, 2, 5, 40]), len(ids))
            if count:
                engine.extend(stream, ids[:count], head=Side.RESPONSE)
                del ids[:count]
        while engine.num_queued_tokens:
            for output in engine.step():
                rows = enumerate(output.risk_probs)
                found |= {(output.stream_id, output.position + row): probs for row, probs in rows}
    return found


def full_pass(parameters: ModelParameters, ids: list[int]) -> NDArray[np.float64]:
    """The risk of every token by the reference decoder and heads in float64."""
    weights = {
        kind: from_bfloat16(parameters.bfloat16(f"response_heads.{kind}.weight")).astype(np.float64)
        for kind in ("pre", "risk")
    }
    norm = parameters.vectors["response_heads.norm.weight"]
    inner = rms_norm(hidden(parameters, np.array(ids)) @ weights["pre"].T, norm, parameters.config.rms_norm_eps)
    exponentials = np.exp(inner @ weights["risk"].T)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


@rounding
@families
def test_many_streams_in_random_cuts_get_the_verdicts_of_one_pass(
    family: str, int8_weights: bool, int8_cache: bool
) -> None:
    parameters = guard(family, int8_weights=int8_weights)
    found = judge_in_random_cuts(make_engine(parameters, kv_cache="int8" if int8_cache else "full"))
    differences = []
    for stream, length in enumerate(LENGTHS, start=1):
        expected = full_pass(parameters, text(length))
        differences += [np.abs(found[stream, at] - expected[at]) for at in range(length)]
    is_rounded = int8_weights or int8_cache
    assert np.max(differences) < (0.12 if is_rounded else 0.06)
    assert np.mean(differences) < (0.012 if is_rounded else 0.006)


@rounding
def test_cuts_batches_and_pages_change_no_bit(int8_weights: bool, int8_cache: bool) -> None:
    parameters = guard("qwen3", int8_weights=int8_weights)
    kv_cache = "int8" if int8_cache else "full"
    first, *others = (
        judge_in_random_cuts(
            make_engine(parameters, kv_cache=kv_cache, page_tokens=page_tokens, max_batch_tokens=max_batch_tokens),
            seed=seed,
        )
        for seed, page_tokens, max_batch_tokens in ((1, 16, 90), (2, 48, 7), (3, 64, 300))
    )
    assert len(first) == sum(LENGTHS)
    for other in others:
        assert sorted(other) == sorted(first)
        assert all(np.array_equal(other[key], first[key]) for key in first)


@families
def test_probabilities_of_8_bit_guards_have_the_same_bits_on_every_unit_of_this_machine(family: str) -> None:
    parameters = guard(family, int8_weights=True)
    first, *others = (judge_in_random_cuts(make_engine(parameters, unit=unit)) for unit in available_units())
    for other in others:
        assert all(np.array_equal(other[key], first[key]) for key in first)


@pytest.mark.parametrize("kv_cache", ["full", "int8"])
def test_a_stream_and_its_fork_share_a_page_and_then_part(kv_cache: str) -> None:
    engine = make_engine(guard("llama"), kv_cache=kv_cache)
    ids = text(70)
    streams = [engine.open()]
    engine.extend(streams[0], ids[:40], head=Side.RESPONSE)
    engine.step()
    streams += [engine.fork(streams[0]), engine.open()]
    engine.extend(streams[2], ids[:40], head=Side.RESPONSE)
    engine.extend(streams[0], text(10), head=Side.RESPONSE)
    engine.step()
    for stream in streams[1:]:
        engine.extend(stream, ids[40:], head=Side.RESPONSE)
    found = {output.stream_id: output for output in engine.step() if output.stream_id in streams[1:]}
    np.testing.assert_array_equal(found[streams[1]].risk_probs, found[streams[2]].risk_probs)


def test_eight_bits_almost_halve_what_a_token_takes() -> None:
    full, rounded = (make_engine(guard("qwen3"), kv_cache=kv_cache) for kv_cache in ("full", "int8"))
    assert rounded.num_free_pages > 1.85 * full.num_free_pages


def test_sizes_that_the_kernels_do_not_support_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 64; the model has 96"):
        make_engine(small_guard(hidden_size=96))
    with pytest.raises(ConfigError, match="pages of 40 tokens"):
        make_engine(small_guard(), page_tokens=40)


def test_risk_offsets_are_added_to_the_logits() -> None:
    import dataclasses

    plain = small_guard()
    assert plain.guard is not None
    offset = dataclasses.replace(plain.guard, risk_offsets={Side.RESPONSE: (0.0, 2.0, -1.0)})
    before, after = (
        np.stack(list(judge_in_random_cuts(make_engine(each)).values()))
        for each in (plain, dataclasses.replace(plain, guard=offset))
    )
    differences = np.log(after) - np.log(before)
    np.testing.assert_allclose(differences[:, 1] - differences[:, 0], 2.0, atol=1e-4)
    np.testing.assert_allclose(differences[:, 2] - differences[:, 0], -1.0, atol=1e-4)
