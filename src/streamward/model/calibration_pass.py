"""A pass over a few random tokens, to see what reaches the layers of a decoder before its weights are rounded."""

# Shapes: T tokens.

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from streamward.model.decoder import Decoder

_NUM_TOKENS = 128


def calibration_ids(decoder: Decoder) -> Tensor:
    """Return random token ids [T], the same ones every time: which channels are large depends little on the text."""
    num_tokens = min(_NUM_TOKENS, decoder.config.max_positions)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, decoder.config.vocab_size, (num_tokens,), generator=generator)


@contextmanager
def forward_hooks(
    modules: Iterable[nn.Module], hook: Callable[[nn.Module, tuple[Tensor, ...], Tensor], Any]
) -> Iterator[None]:
    """Call `hook` with each of some modules, its inputs and its output, whenever it has run."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
