"""Programs that a benchmark starts and ends."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE_S = 15.0


@contextmanager
def running_module(module: str, *arguments: str, is_quiet: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `python -m module` during a block, and end it, by force if it does not stop within 15 seconds.

    Args:
        module: Module that is run.
        arguments: Arguments of its command line.
        is_quiet: Drops what it writes to standard output.
    """
    output = subprocess.DEVNULL if is_quiet else None
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
