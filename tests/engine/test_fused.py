"""An engine with native kernels gives the verdicts of one full pass, up to bfloat16's rounding."""

import random

import pytest
import torch

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.model.config import ModelConfig
from streamward.model.guard_model import GuardModel
from streamward.model.native.library import kernels
from streamward.model.packing import pack_linears
from streamward.schema import Side
from tests.engine.harness import GUARD_CONFIG, VOCAB_SIZE, full_pass, opinions_of, random_ids

pytestmark = pytest.mark.skipif(kernels() is None, reason="this machine builds or runs no native kernels")
LENGTHS = (5, 130, 64, 211)


def wide_guard(*, has_qk_norm: bool, dtype: torch.dtype) -> GuardModel:
    """Two layers of a shape that the kernels take; the same values in every dtype."""
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=96,
        num_layers=2,
        num_heads=6,
        num_kv_heads=2,
        head_dim=64,
        intermediate_size=160,
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


def make_engine(*, has_qk_norm: bool, native: bool = True, page_tokens: int = 16) -> Engine:
    guard = wide_guard(has_qk_norm=has_qk_norm, dtype=torch.bfloat16)
    pack_linears(guard)
    config = EngineConfig(kv_cache_bytes=2**23, page_tokens=page_tokens, max_batch_tokens=90)
    return Engine(config, model=guard, native_kernels=native)


def judge_in_random_cuts(engine: Engine) -> dict[tuple[int, int], torch.Tensor]:
    """Feed streams of `LENGTHS` side by side; return the risk of each (stream, position)."""
    rng = random.Random(3)
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


@pytest.mark.parametrize("page_tokens", [5, 64])
@pytest.mark.parametrize("has_qk_norm", [True, False], ids=["qwen3", "llama"])
def test_many_streams_in_random_cuts_get_the_verdicts_of_one_pass(has_qk_norm: bool, page_tokens: int) -> None:
    engine = make_engine(has_qk_norm=has_qk_norm, page_tokens=page_tokens)
    assert engine.is_native
    found = judge_in_random_cuts(engine)
    reference = wide_guard(has_qk_norm=has_qk_norm, dtype=torch.float32)
    for stream, length in enumerate(LENGTHS, start=1):
        expected = full_pass(reference, random_ids(length, seed=length), [Side.RESPONSE] * length)
        differences = torch.stack([(found[stream, at] - expected[at].risk).abs() for at in range(length)])
        assert float(differences.max()) < 0.06
        assert float(differences.mean()) < 0.006


def test_native_kernels_are_no_less_exact_than_torch() -> None:
    reference = wide_guard(has_qk_norm=True, dtype=torch.float32)
    errors = {}
    for native in (True, False):
        engine = make_engine(has_qk_norm=True, native=native)
        assert engine.is_native is native
        found = judge_in_random_cuts(engine)
        total = 0.0
        for stream, length in enumerate(LENGTHS, start=1):
            expected = full_pass(reference, random_ids(length, seed=length), [Side.RESPONSE] * length)
            total += sum(float((found[stream, at] - expected[at].risk).abs().sum()) for at in range(length))
        errors[native] = total / sum(LENGTHS)
    assert errors[True] < 1.2 * errors[False]
