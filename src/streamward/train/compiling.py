"""Compiles the small operations of a decoder's layers while it is trained."""

# On a CPU a third of a training step goes into norms, rotations and gates: each reads and writes its tensors several
# times, forward and backward. Compiled, each is one pass. Projections and attention gain nothing.

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from streamward.errors import ConfigError
from streamward.model.decoder import Decoder
from streamward.model.layers import DecoderLayer, PointwiseOps, Rotation, gelu_gated, plain_ops
from streamward.train.config import RunConfig

logger = logging.getLogger(__name__)
_MIN_TOKENS = 300_000  # shorter runs end before compiling has paid


@contextmanager
def compiled_layers(decoder: Decoder, config: RunConfig, *, num_steps: int) -> Iterator[bool]:
    """Train with compiled operations as the settings want it; afterwards the decoder has its plain ones again.

    Args:
        decoder: Where it is trained, in the dtype it is trained in.
        config: Its `compile` decides.
        num_steps: Number of steps of the run.

    Yields:
        Whether they are compiled.

    Raises:
        ConfigError: `compile` is true and they cannot be.
    """
    is_worth_it = decoder.embed.weight.device.type == "cpu" and num_steps * config.batch_tokens >= _MIN_TOKENS
    plain = plain_ops(decoder.config)
    ops = _compiled(decoder, config) if config.compile is True or (config.compile and is_worth_it) else plain
    _install(decoder, ops)
    try:
        yield ops is not plain
    finally:
        _install(decoder, plain)


def _compiled(decoder: Decoder, config: RunConfig) -> PointwiseOps:
    plain = plain_ops(decoder.config)
    chosen = plain._replace(gated=sigmoid_gelu_gated) if plain.gated is gelu_gated else plain
    try:
        ops = PointwiseOps(*(torch.compile(op, dynamic=True) for op in chosen))
        _try_out(ops, decoder)
    except Exception as error:  # torch has an error of its own for every way in which a compiler fails
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if config.compile is True:
            raise ConfigError(f"compile is true, and torch cannot compile here: {reason}") from error
        logger.warning("torch cannot compile here; training goes on without, slower", extra={"reason": reason})
        return plain
    return ops


def sigmoid_gelu_gated(gate_up_T2F: Tensor) -> Tensor:
    """Return what `gelu_gated` does, in half its time when compiled.

    (1 + tanh u) / 2 is the sigmoid of 2 u, which costs one exponential function where tanh costs several polynomials.
    """
    gate_TF, up_TF = gate_up_T2F.chunk(2, dim=-1)
    x_TF = gate_TF.float()
    u_TF = (2 / math.pi) ** 0.5 * (x_TF + 0.044715 * x_TF**3)
    return (x_TF * torch.sigmoid(2 * u_TF)).to(gate_TF.dtype) * up_TF


def _try_out(ops: PointwiseOps, decoder: Decoder) -> None:
    """Compile each operation, forward and backward, for any number of tokens."""
    layer = next(iter(decoder.layers))
    assert isinstance(layer, DecoderLayer)
    weight = layer.input_norm.weight.detach()
    size = len(weight)
    num_tokens = 3
    x_TD = torch.ones(num_tokens, size, dtype=weight.dtype, device=weight.device, requires_grad=True)
    angles_T1r = x_TD.detach()[:, None, : layer.head_dim // 2]
    x_Thd = x_TD[:, None, : layer.head_dim].expand(-1, 2, -1)
    results = (
        ops.norm(x_TD, weight, layer.input_norm.eps),
        ops.rotate(x_Thd, Rotation(angles_T1r, angles_T1r)),
        ops.gated(x_TD[:, : size // 2 * 2]),
    )
    for result in results:
        result.sum().backward()


def _install(decoder: Decoder, ops: PointwiseOps) -> None:
    for layer in decoder.layers:
        assert isinstance(layer, DecoderLayer)
        layer.ops = ops
