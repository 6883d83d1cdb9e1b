"""Threads change no bit; the pool is there after a fork, and for several callers at once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from streamward.kernels.library import load_kernels, num_threads, set_num_threads
from streamward.kernels.quantization import quantize
from streamward.kernels.threads import usable_cores
from streamward.kernels.weights import PackedWeight
from tests.kernels.harness import SHAPES, Floats, Mode, RandomWeights, decoder_of, read_in_random_cuts

LENGTHS = (70, 130)


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    before = num_threads()
    yield
    set_num_threads(before)


def states(*, seed: int = 1) -> Floats:
    decoder = decoder_of(RandomWeights(SHAPES["llama"]), kernels=load_kernels(), mode=Mode())
    return read_in_random_cuts(decoder, LENGTHS, seed=seed)


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    set_num_threads(1)
    expected = states()
    set_num_threads(threads)
    assert num_threads() == threads
    assert np.array_equal(states(seed=2), expected)


def test_callers_take_turns() -> None:
    set_num_threads(3)
    expected = states()
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(found, expected) for found in pool.map(lambda seed: states(seed=seed), range(4)))


FORKED = """
import os
import numpy as np
from streamward.kernels.library import set_num_threads
from tests.kernels.test_pool import states
set_num_threads(3)
expected = states()
child = os.fork()
is_same = np.array_equal(states(), expected)
if child == 0:
    os._exit(0 if is_same else 1)
assert os.waitpid(child, 0)[1] == 0
assert is_same
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_parent_and_child_go_on_after_a_fork() -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    subprocess.run([sys.executable, "-c", FORKED], env=environment, check=True, timeout=120)


def group(root: Path, path: str, text: str) -> None:
    folder = root / path.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [("max 100000", "max 100000", 6), ("250000 100000", "max 100000", 3), ("400000 100000", "50000 100000", 1)],
)
def test_a_quota_limits_the_cores(
    outer: str, inner: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    own = tmp_path / "own"
    own.write_text("0::/outer/inner\n", encoding="utf-8")
    group(tmp_path / "root", "/outer", outer)
    group(tmp_path / "root", "/outer/inner", inner)
    assert usable_cores(cgroup_root=tmp_path / "root", own_cgroup=own) == expected


def test_the_first_version_of_control_groups_has_quotas_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    own = tmp_path / "own"
    own.write_text("5:memory:/box\n4:cpu,cpuacct:/box\n", encoding="utf-8")
    folder = tmp_path / "root" / "cpu" / "box"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("200000\n", encoding="utf-8")
    (folder / "cpu.cfs_period_us").write_text("100000\n", encoding="utf-8")
    assert usable_cores(cgroup_root=tmp_path / "root", own_cgroup=own) == 2


def test_affinity_limits_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    assert usable_cores(cgroup_root=tmp_path, own_cgroup=tmp_path / "none") == 3


def test_a_caller_who_flushes_denormal_numbers_gets_the_same_bits() -> None:
    torch = pytest.importorskip("torch")
    weight = quantize(np.random.default_rng(1).standard_normal((64, 128), np.float32) * np.float32(1e-20))
    x = np.random.default_rng(2).standard_normal((3, 128), np.float32) * np.float32(1e-20)
    packed = PackedWeight.int8(weight, kernels=load_kernels())
    expected = packed.matmul(x)
    assert np.any(expected != 0)
    assert np.abs(expected).max() < np.finfo(np.float32).tiny
    torch.set_flush_denormal(True)
    try:
        found = packed.matmul(x)
    finally:
        torch.set_flush_denormal(False)
    assert found.tobytes() == expected.tobytes()
