"""`streamward bench` on a tiny shape: every path is measured; records, ratios and rooflines are right."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch

from streamward.bench import run
from streamward.bench.record import Record, ratios
from streamward.bench.roofline import MachineLimits, decoder_weights, faster, roofline_step_s
from streamward.bench.run import main_bench
from streamward.bench.shapes import SHAPES, linear_bytes, random_guard
from streamward.bench.timing import timed
from streamward.errors import InputError
from streamward.kernels.library import available_units

TINY = dataclasses.replace(
    SHAPES["0.6b"],
    vocab_size=300,
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=64,
    intermediate_size=128,
    max_positions=128,
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    monkeypatch.setitem(SHAPES, "tiny-llama", dataclasses.replace(TINY, has_qk_norm=False))
    monkeypatch.setattr(run, "CONTEXTS", (24, 48))
    monkeypatch.setattr(run, "QUICK_CONTEXTS", (32,))
    monkeypatch.setattr(run, "SHARED_CONTEXT", 32)
    monkeypatch.setattr(run, "STREAM_COUNTS", (2, 3))
    monkeypatch.setattr(run, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(run, "measure_machine", lambda dtype: MachineLimits(1e10, 1e11))
    monkeypatch.setattr(run, "_embedded", lambda: iter(["embedded: not measured here"]))
    monkeypatch.setattr(run._Bench, "contention", lambda self: "contention: not measured here")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("shape", ["tiny", "tiny-llama"])
def test_every_path_is_measured_and_written(shape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_bench(shapes=[shape], json_path=tmp_path / "out.jsonl", plot_path=tmp_path / "out.png")
    records = [Record(**json.loads(line)) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = {"append", "reread", "reread-transformers", "transformers-cache"}
    expected |= {"append-torch"} if available_units() else set()
    assert {record.path for record in records} == expected
    ours = [record for record in records if record.path == "append" and "int8" not in record.dtype]
    single = [(record.context, record.k) for record in ours if record.streams == 1]
    assert single == [(context, k) for context in (24, 48) for k in (1, 4, 16)]
    assert [(record.streams, record.k) for record in ours if record.streams > 1] == [
        (streams, k) for streams in (2, 3) for k in (1, 4, 16)
    ]
    for record in records:
        assert record.ms > 0
        assert record.tokens_per_s == pytest.approx(record.k * record.streams / record.ms * 1e3, rel=0.1)
        assert record.roofline_ms > 0
    out = capsys.readouterr().out
    assert "reread-transformers" in out
    assert "16 tokens one by one" in out
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("tiny")
def test_a_quick_run_has_one_context_and_one_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_bench(shapes=["tiny"], quick=True, json_path=tmp_path / "out.jsonl")
    records = [Record(**json.loads(line)) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {(record.context, record.streams) for record in records} == {(32, 1)}
    assert "a stream of 32 tokens takes" in capsys.readouterr().out


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"'9b'; there are 0\.6b"):
        main_bench(shapes=["9b"], quick=True)


@pytest.mark.usefixtures("tiny")
def test_the_roofline_is_the_longer_of_reading_and_multiplying() -> None:
    model = random_guard("tiny", dtype=torch.bfloat16)
    weights = decoder_weights(model)
    assert weights == 2 * (64 * 256 + 128 * 64 + 3 * 64 * 128)
    assert linear_bytes(model) > 2 * weights
    sizes = {"weight_bytes": 2 * weights, "token_bytes": 256, "context": 9, "k": 1, "streams": 3}
    kv_bytes = 256 * 10 * 3
    slow_memory, slow_cores = MachineLimits(1.0, 1e30), MachineLimits(1e30, 1.0)
    assert roofline_step_s(model, slow_memory, **sizes) == 2 * weights + kv_bytes
    assert roofline_step_s(model, slow_cores, **sizes) == 3 * (2 * weights + 4 * 2 * 2 * 64 * 10)


def test_the_better_of_two_measurements_of_a_machine_counts() -> None:
    assert faster(MachineLimits(2.0, 3.0), MachineLimits(1.0, 4.0)) == MachineLimits(2.0, 4.0)


def test_ratios_compare_with_our_chunk_of_the_same_shape_and_context() -> None:
    ours = Record("append", "s", "bfloat16", 512, 16, 1, ms=10.0, tokens_per_s=1600.0, roofline_ms=5.0)
    cheaper = dataclasses.replace(ours, dtype="int8", ms=5.0)
    reread = dataclasses.replace(ours, path="reread", k=1, ms=100.0)
    elsewhere = dataclasses.replace(reread, context=2048)
    assert list(ratios([ours, cheaper, reread, elsewhere])) == [
        "s, context 512: append int8, a chunk of 16: 0.50 times ours in bfloat16",
        "s, context 512: reread bfloat16, 16 tokens one by one: 160 times our chunk of 16",
    ]


def test_short_work_is_repeated_until_it_took_long_enough() -> None:
    assert len(timed(lambda: time.sleep(0.001), repeats=2)) == 2
    assert sum(timed(lambda: time.sleep(0.001), repeats=2, min_seconds=0.01)) >= 0.01
