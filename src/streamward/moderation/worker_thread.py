"""The thread that steps an engine; it ends when nobody has its worker any more."""

import queue
import threading
import weakref
from typing import Protocol

Wakeups = queue.SimpleQueue[bool]
"""True: there is work. False: the worker is closed, or gone."""


class Runnable(Protocol):
    """A worker that works until there is nothing to do."""

    def run(self) -> None:
        """Work."""
        ...


def start_thread(worker: Runnable, wakeups: Wakeups) -> threading.Thread:
    """Start a thread that runs a worker whenever it is woken. It does not keep the worker alive while it sleeps."""
    thread = threading.Thread(target=_serve, args=(weakref.ref(worker), wakeups), name="streamward-engine", daemon=True)
    thread.start()
    return thread


def _serve(worker: "weakref.ref[Runnable]", wakeups: Wakeups) -> None:
    while wakeups.get():
        found = worker()
        if found is None:
            return
        found.run()
        del found
