"""The file of a prepared guard: what was written is mapped again, and whatever does not fit is refused by name."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from streamward.engine.config import EngineConfig
from streamward.engine.native_runner import NativeModelRunner
from streamward.errors import CheckpointError
from streamward.kernels.library import available_units
from streamward.kernels.quantization import QuantizedWeight
from streamward.model.checkpoint import load_stream
from streamward.model.parameters import ModelParameters
from streamward.model.preparation import prepare
from streamward.model.prepared import PREPARED_FILE, load_prepared, save_prepared
from streamward.model.published import config_keys
from streamward.model.tensor_file import TensorFile, save_tensors
from tests.model.small import small_guard

pytestmark = pytest.mark.skipif(not available_units(), reason="the kernels were not built on this machine")


@pytest.fixture(scope="module")
def prepared() -> ModelParameters:
    return prepare(small_guard())


@pytest.fixture
def folder(tmp_path: Path, prepared: ModelParameters) -> Path:
    save_prepared(prepared, tmp_path)
    keys = config_keys(prepared.config, prepared.guard, dtype="bfloat16")
    (tmp_path / "config.json").write_text(json.dumps(keys))
    return tmp_path


def rewrite(folder: Path, **changes: object) -> None:
    """Write the file again with some tensors replaced, or left out where the value is None."""
    file = TensorFile(folder / PREPARED_FILE)
    tensors = {name: np.array(file.array(name)) for name in file.names}
    metadata = dict(file.metadata)
    for name, value in changes.items():
        if value is None:
            del tensors[name.replace("__", ".")]
        else:
            tensors[name.replace("__", ".")] = np.asarray(value)
    save_tensors(folder / PREPARED_FILE, tensors, metadata=metadata)


def test_what_was_written_is_read(folder: Path, prepared: ModelParameters) -> None:
    again = load_prepared(folder)
    assert again.config == prepared.config
    assert again.guard == prepared.guard
    for name, (block,) in prepared.weights.items():
        (found,) = again.weights[name]
        assert isinstance(found, QuantizedWeight) is isinstance(block, QuantizedWeight)
        np.testing.assert_array_equal(again.bfloat16(name), prepared.bfloat16(name))
    for name, vector in prepared.vectors.items():
        np.testing.assert_array_equal(again.vectors[name], vector)
    assert again.key_basis is not None
    assert prepared.key_basis is not None
    np.testing.assert_array_equal(again.key_basis.mean_key, prepared.key_basis.mean_key)


def test_weights_are_mapped_and_not_copied(folder: Path) -> None:
    (block,) = load_prepared(folder).weights["decoder.layers.0.down.weight"]
    assert isinstance(block, QuantizedWeight)
    assert not block.values.flags.owndata
    assert not block.values.flags.writeable


def test_torch_gets_the_same_values(folder: Path, prepared: ModelParameters) -> None:
    model = load_stream(folder, dtype=torch.float32)
    weight = model.decoder.get_parameter("layers.1.qkv.weight").numpy()
    expected = prepared.bfloat16("decoder.layers.1.qkv.weight").astype(np.uint32) << 16
    np.testing.assert_array_equal(weight, expected.view(np.float32))
    norm = model.decoder.get_parameter("layers.1.input_norm.weight").numpy()
    np.testing.assert_array_equal(norm, prepared.vectors["decoder.layers.1.input_norm.weight"])


def test_a_tensor_that_is_missing_is_named(folder: Path) -> None:
    rewrite(folder, decoder__norm__weight=None)
    with pytest.raises(CheckpointError, match=r"lacks decoder.norm.weight"):
        load_prepared(folder)


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    rewrite(folder, decoder__norm__weight=np.ones(5, np.float32))
    with pytest.raises(CheckpointError, match=r"decoder.norm.weight is F32 \[5\]; expected F32 \[128\]"):
        load_prepared(folder)


def test_an_unknown_tensor_is_named(folder: Path) -> None:
    rewrite(folder, decoder__bias=np.ones(5, np.float32))
    with pytest.raises(CheckpointError, match=r"unknown tensor decoder.bias"):
        load_prepared(folder)


def test_a_file_of_another_version_is_refused(folder: Path) -> None:
    file = TensorFile(folder / PREPARED_FILE)
    tensors = {name: np.array(file.array(name)) for name in file.names}
    save_tensors(folder / PREPARED_FILE, tensors, metadata={"format": "streamward-int8", "version": "0"})
    with pytest.raises(
        CheckpointError, match="version '0'; expected streamward-int8, version 1; prepare the guard again"
    ):
        load_prepared(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / PREPARED_FILE
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="is damaged or no safetensors file"):
        load_prepared(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_packing_gives_back_the_memory_of_the_file(tmp_path: Path) -> None:
    guard = small_guard(hidden_size=256, intermediate_size=1024, num_layers=4)
    save_prepared(prepare(guard), tmp_path)
    keys = config_keys(guard.config, guard.guard, dtype="bfloat16")
    (tmp_path / "config.json").write_text(json.dumps(keys))
    parameters = load_prepared(tmp_path)
    for name in parameters.weights:
        parameters.bfloat16(name)
    size = (tmp_path / PREPARED_FILE).stat().st_size
    assert resident_bytes(tmp_path / PREPARED_FILE) > size / 2
    NativeModelRunner(parameters, EngineConfig(kv_cache_bytes=2**20))
    assert resident_bytes(tmp_path / PREPARED_FILE) < size / 8


def resident_bytes(path: Path) -> int:
    """Return how much of a mapped file this process has in memory."""
    found, num_bytes = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            found = line.endswith(str(path))
        elif found and line.startswith("Rss:"):
            num_bytes += int(line.split()[1]) * 1024
    return num_bytes
