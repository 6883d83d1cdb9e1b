"""An engine with native kernels gives the verdicts of one full pass, up to bfloat16's rounding."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.token_sequence import TokenSequence
from streamward.errors import ConfigError
from streamward.model.config import ModelConfig
from streamward.model.guard_model import GuardModel
from streamward.model.native.library import kernels
from streamward.model.packing import pack_linears, quantize_linears
from streamward.schema import Side
from tests.engine.harness import GUARD_CONFIG, VOCAB_SIZE, full_pass, opinions_of, random_ids

pytestmark = pytest.mark.skipif(kernels() is None, reason="this machine builds or runs no native kernels")
LENGTHS = (5, 130, 64, 211)


def wide_guard(*, has_qk_norm: bool, dtype: torch.dtype, num_layers: int = 2) -> GuardModel:
    """Layers of a shape that the kernels take; the same values in every dtype."""
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        num_layers=num_layers,
        num_heads=6,
        num_kv_heads=2,
        head_dim=64,
        intermediate_size=192,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        max_positions=300,
        has_tied_embeddings=True,
        has_qk_norm=has_qk_norm,
    )
    torch.manual_seed(7)
    guard = GuardModel(config, GUARD_CONFIG)
    for parameter in guard.parameters():
        noise = torch.randn_like(parameter)
        values = 1 + 0.3 * noise if parameter.dim() == 1 else noise * parameter.shape[1] ** -0.5
        parameter.data = values.bfloat16().to(dtype)
    return guard.eval()


def make_engine(
    *,
    has_qk_norm: bool,
    native: bool = True,
    is_int8: bool = False,
    int8_cache: bool = False,
    num_layers: int = 2,
    page_tokens: int = 16,
    max_batch_tokens: int = 90,
) -> Engine:
    guard = wide_guard(has_qk_norm=has_qk_norm, dtype=torch.bfloat16, num_layers=num_layers)
    if is_int8:
        quantize_linears(guard.decoder)
    pack_linears(guard)
    config = EngineConfig(
        kv_cache_bytes=2**23,
        page_tokens=page_tokens,
        max_batch_tokens=max_batch_tokens,
        kv_cache="int8" if int8_cache else "full",
    )
    return Engine(config, model=guard, native_kernels=native)


def judge_in_random_cuts(engine: Engine, *, seed: int = 3) -> dict[tuple[int, int], torch.Tensor]:
    """Feed streams of `LENGTHS` side by side; return the risk of each (stream, position)."""
    rng = random.Random(seed)
    left = {engine.open(): random_ids(length, seed=length) for length in LENGTHS}
    found: dict[tuple[int, int], torch.Tensor] = {}
    while any(left.values()):
        for stream, ids in left.items():
            count = min(rng.choice([1, 2, 5, 40]), len(ids))
            if count:
                engine.extend(stream, ids[:count], read=Side.RESPONSE)
                del ids[:count]
        while engine.num_queued_tokens:
            found |= {(stream, at): opinion.risk for stream, at, opinion in opinions_of(engine.step())}
    return found


def worst_and_mean_error(found: dict[tuple[int, int], torch.Tensor], *, has_qk_norm: bool) -> tuple[float, float]:
    """Compare with one full pass in float32."""
    reference = wide_guard(has_qk_norm=has_qk_norm, dtype=torch.float32)
    differences = []
    for stream, length in enumerate(LENGTHS, start=1):
        expected = full_pass(reference, random_ids(length, seed=length), [Side.RESPONSE] * length)
        differences += [(found[stream, at] - expected[at].risk).abs() for at in range(length)]
    together = torch.stack(differences)
    return float(together.max()), float(together.mean())


rounding = pytest.mark.parametrize(
    ("is_int8", "int8_cache"), [(False, False), (True, False), (False, True), (True, True)]
)


@rounding
@pytest.mark.parametrize("page_tokens", [16, 64])
@pytest.mark.parametrize("has_qk_norm", [True, False], ids=["qwen3", "llama"])
def test_many_streams_in_random_cuts_get_the_verdicts_of_one_pass(
    has_qk_norm: bool, page_tokens: int, is_int8: bool, int8_cache: bool
) -> None:
    engine = make_engine(has_qk_norm=has_qk_norm, page_tokens=page_tokens, is_int8=is_int8, int8_cache=int8_cache)
    assert engine.is_native
    worst, mean = worst_and_mean_error(judge_in_random_cuts(engine), has_qk_norm=has_qk_norm)
    is_rounded = is_int8 or int8_cache
    assert worst < (0.12 if is_rounded else 0.06)
    assert mean < (0.012 if is_rounded else 0.006)


@pytest.mark.parametrize("num_layers", [2, 6])
@rounding
def test_cuts_batches_and_pages_change_no_bit(is_int8: bool, int8_cache: bool, num_layers: int) -> None:
    """The heads, which torch computes, are left out: their last bits depend on how many rows they get.

    Of two layers all are rounded to 8 bits, of six the first is not.
    """
    hidden = []
    for seed, page_tokens, max_batch_tokens in ((1, 16, 90), (2, 48, 7), (3, 64, 300)):
        engine = make_engine(
            has_qk_norm=True,
            is_int8=is_int8,
            int8_cache=int8_cache,
            num_layers=num_layers,
            page_tokens=page_tokens,
            max_batch_tokens=max_batch_tokens,
        )
        with noted_states(engine) as states:
            judge_in_random_cuts(engine, seed=seed)
        hidden.append(states)
    first, *others = hidden
    assert len(first) == sum(LENGTHS)
    for other in others:
        assert sorted(other) == sorted(first)
        assert all(torch.equal(other[key], first[key]) for key in first)


@contextmanager
def noted_states(engine: Engine) -> Iterator[dict[tuple[int, int], torch.Tensor]]:
    """Collect the hidden state of each (stream, position) that an engine computes."""
    states: dict[tuple[int, int], torch.Tensor] = {}
    forward = engine._runner.forward

    def noting(batch: Sequence[tuple[TokenSequence, int]]) -> torch.Tensor:
        hidden_TD = forward(batch)
        where = [(stream.id, stream.num_cached + offset) for stream, count in batch for offset in range(count)]
        states.update(zip(where, hidden_TD.clone(), strict=False))
        return hidden_TD

    engine._runner.forward = noting  # type: ignore[method-assign]
    yield states


def test_native_kernels_are_no_less_exact_than_torch() -> None:
    errors = {}
    for native in (True, False):
        engine = make_engine(has_qk_norm=True, native=native)
        assert engine.is_native is native
        _, errors[native] = worst_and_mean_error(judge_in_random_cuts(engine), has_qk_norm=True)
    assert errors[True] < errors[False]


def test_a_decoder_that_was_not_packed_is_run_by_torch() -> None:
    guard = wide_guard(has_qk_norm=True, dtype=torch.bfloat16)
    engine = Engine(EngineConfig(kv_cache_bytes=2**23), model=guard)
    assert not engine.is_native
    judge_in_random_cuts(engine)


def test_pages_that_are_no_multiple_of_a_strip_are_run_by_torch() -> None:
    engine = make_engine(has_qk_norm=True, page_tokens=40)
    assert not engine.is_native
    judge_in_random_cuts(engine)


@pytest.mark.parametrize("int8_cache", [False, True])
def test_a_stream_and_its_fork_share_a_page_and_then_part(int8_cache: bool) -> None:
    engine = make_engine(has_qk_norm=True, int8_cache=int8_cache)
    ids = random_ids(70, seed=5)
    streams = [engine.open()]
    engine.extend(streams[0], ids[:40], read=Side.RESPONSE)
    engine.step()
    streams += [engine.fork(streams[0]), engine.open()]
    engine.extend(streams[2], ids[:40], read=Side.RESPONSE)
    engine.extend(streams[0], random_ids(10, seed=6), read=Side.RESPONSE)
    engine.step()
    for stream in streams[1:]:
        engine.extend(stream, ids[40:], read=Side.RESPONSE)
    found: dict[tuple[int, int], torch.Tensor] = {}
    while engine.num_queued_tokens:
        found |= {(stream, at): opinion.risk for stream, at, opinion in opinions_of(engine.step())}
    for at in range(40, 70):
        torch.testing.assert_close(found[streams[1], at], found[streams[2], at], atol=1e-3, rtol=0)


def test_eight_bits_almost_halve_what_a_token_takes() -> None:
    full, rounded = (make_engine(has_qk_norm=True, int8_cache=int8_cache) for int8_cache in (False, True))
    assert rounded.num_free_pages > 1.85 * full.num_free_pages


def test_a_cache_of_eight_bits_without_kernels_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="set kv_cache to full"):
        make_engine(has_qk_norm=True, native=False, int8_cache=True)
