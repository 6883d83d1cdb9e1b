"""A process that was told to stop ends in time, whatever still runs in it."""

import logging
import os
import sys
import threading

from streamward.cli.common import ExitCode

logger = logging.getLogger(__name__)


def end_within(seconds: float) -> None:
    """End this process after some time, if it is still there: a call that hangs would keep it for ever."""
    timer = threading.Timer(seconds, _give_up)
    timer.daemon = True
    timer.start()


def end_now(code: int) -> None:
    """End this process without waiting for threads that are in the middle of something, if there are any of ours.

    An interpreter that ends under a thread at work in compiled code may crash.
    """
    if any(thread.name.startswith("streamward") for thread in threading.enumerate()):
        _leave(code)


def _give_up() -> None:
    logger.error("the service did not stop in time and was ended")
    _leave(ExitCode.FAILURE)


def _leave(code: int) -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
