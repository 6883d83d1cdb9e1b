"""Several processes train one guard."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from streamward.bundled.adapter import ADAPTER_FILE
from streamward.train.parallel import World
from tests.train.tiny import config


def test_alone_nothing_is_shared() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    World().average_gradients([parameter])
    assert parameter.grad is None
    assert World().is_main_process


@pytest.mark.slow
def test_two_processes_share_a_run(workplace: Path) -> None:
    path = config(workplace, "shared", epochs=2.0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STREAMWARD_CACHE": str(workplace / "cache")}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "streamward"]
    done = subprocess.run(
        [*command, "train", "stream", "--config", str(path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    tensors = load_file(workplace / "runs" / "shared" / ADAPTER_FILE)
    assert any(bool(value.any()) for name, value in tensors.items() if name.endswith("lora_b"))
