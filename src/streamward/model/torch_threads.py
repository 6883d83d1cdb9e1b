"""The number of CPU threads that torch uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fixed_threads(number: int | None) -> Iterator[None]:
    """Let torch use `number` threads during a `with` block; None leaves its setting, which belongs to each thread."""
    own = torch.get_num_threads()
    if number is not None and own != number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number is not None and own != number:
            torch.set_num_threads(own)
