"""One training run in several processes: each takes its own batches, gradients are averaged.

Started by `torchrun` or `accelerate launch`, which say in the environment who is who; alone without them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn


def _from_environment(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run and this one's place among them."""

    rank: int = field(default_factory=lambda: _from_environment("RANK", 0))
    size: int = field(default_factory=lambda: _from_environment("WORLD_SIZE", 1))
    local_rank: int = field(default_factory=lambda: _from_environment("LOCAL_RANK", 0))

    @property
    def is_main_process(self) -> bool:
        """True if this process writes the files."""
        return self.rank == 0

    def join(self, device: torch.device) -> None:
        """Meet the other processes, if there are any."""
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    def leave(self) -> None:
        """Part from the other processes, when all are done."""
        if self.size > 1 and dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the mean of all gradients; those a batch does not touch count as zero."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.copy_(flat[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()
