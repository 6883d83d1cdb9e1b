"""Measured roofline of this machine: the minimum time of a step."""

from dataclasses import dataclass

import torch

from streamward.bench.timing import timed
from streamward.model.guard_model import GuardModel
from streamward.model.memory import lazy_zeros
from streamward.model.packing import PackedLinear, can_pack

_GEMM_ROWS, _GEMM_SIZE = 256, 4096
_REPEATS = 25  # reads, of which the fastest counts: other work only slows a read down


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """Measured limits.

    Attributes:
        bytes_per_s: Read from memory with all threads.
        flops_per_s: Floating-point operations per second of a large matrix product in the dtype served.
    """

    bytes_per_s: float
    flops_per_s: float


def measure_machine(dtype: torch.dtype) -> MachineLimits:
    """Measure this machine."""
    return MachineLimits(_read_bandwidth(), _gemm_rate(dtype))


def faster(first: MachineLimits, second: MachineLimits) -> MachineLimits:
    """Return the best of both: what a machine did once it can do."""
    return MachineLimits(max(first.bytes_per_s, second.bytes_per_s), max(first.flops_per_s, second.flops_per_s))


def _read_bandwidth() -> float:
    values = lazy_zeros((2**28,), dtype=torch.int8, huge_pages=True).fill_(1)  # far more than any cache holds
    words = values.view(torch.int64)
    return values.nbytes / min(timed(words.sum, repeats=_REPEATS))


def _gemm_rate(dtype: torch.dtype) -> float:
    weight, x = torch.randn(_GEMM_SIZE, _GEMM_SIZE).to(dtype), torch.randn(_GEMM_ROWS, _GEMM_SIZE).to(dtype)
    linear = PackedLinear(weight) if can_pack(dtype) else torch.nn.Linear(_GEMM_SIZE, _GEMM_SIZE, bias=False).to(dtype)
    with torch.inference_mode():
        seconds = min(timed(lambda: linear(x), repeats=_REPEATS))
    return 2 * _GEMM_ROWS * _GEMM_SIZE**2 / seconds


def decoder_weights(model: GuardModel) -> int:
    """Return how many weights of linear layers one step multiplies by, heads left out."""
    config = model.decoder.config
    heads = config.num_heads + config.num_kv_heads
    attention = 2 * heads * config.head_dim * config.hidden_size
    return config.num_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def roofline_step_s(
    model: GuardModel,
    machine: MachineLimits,
    *,
    weight_bytes: int,
    token_bytes: int,
    context: int,
    k: int,
    streams: int,
) -> float:
    """Return the least time of a step: everything read once, or every operation done, whichever takes longer.

    Args:
        model: Whose step.
        machine: Measured limits.
        weight_bytes: Size of the linear layers as they are stored; operations count as if all were of the dtype served.
        token_bytes: Size of the keys and values of one token over all layers.
        context: Tokens of each stream in the cache.
        k: New tokens of each.
        streams: That are stepped together.
    """
    config = model.decoder.config
    kv_bytes = token_bytes * (context + k) * streams
    attention = 4 * config.num_layers * config.num_heads * config.head_dim * (context + k)
    flops = k * streams * (2 * decoder_weights(model) + attention)
    return max((weight_bytes + kv_bytes) / machine.bytes_per_s, flops / machine.flops_per_s)
