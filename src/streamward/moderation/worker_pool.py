"""Threads for calls that block, divided between owners so that none takes them all."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from streamward.errors import StreamClosedError

_IDLE_S = 10.0  # time after which an idle thread ends
_NOBODY = object()

T = TypeVar("T")


class Submitter(Protocol):
    """Starts calls in threads, as executors of the standard library do."""

    def submit(self, call: Callable[[], T], /) -> "Future[T]":
        """Start a call."""
        ...


@dataclass(slots=True)
class _Owner:
    """The waiting and running calls of one owner."""

    waiting: "deque[tuple[Callable[[], Any], Future[Any]]]" = field(default_factory=deque)  # Any: of every type
    num_running: int = 0


class WorkerPool:
    """Runs calls in daemon threads, which do not keep a process alive. Thread-safe; close it.

    Owners take turns, and one may hold only as many threads as it leaves free: alone it gets half of them, and whoever
    comes next always finds some. Calls without an owner may take all.
    """

    def __init__(self, max_threads: int) -> None:
        """Start no thread yet."""
        self._max_threads = max_threads
        self._changed = threading.Condition()
        self._owners: dict[str | None, _Owner] = {}  # owners with waiting or running work; the next in turn comes first
        self._num_running = 0
        self._num_idle = 0
        self._threads: set[threading.Thread] = set()
        self._is_closed = False

    def submit(self, call: Callable[[], T], *, owner: str | None = None) -> "Future[T]":
        """Run a call when it is its owner's turn.

        Raises:
            StreamClosedError: The pool is closed.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._is_closed:
                raise moderator_closed()
            self._owners.setdefault(owner, _Owner()).waiting.append((call, future))
            num_waiting = sum(len(each.waiting) for each in self._owners.values())
            if num_waiting > self._num_idle and len(self._threads) < self._max_threads:
                thread = threading.Thread(target=self._run, name="streamward", daemon=True)
                self._threads.add(thread)
                thread.start()
            self._changed.notify()
        return future

    def of(self, owner: str | None) -> "Submitter":
        """Return the pool as one owner uses it."""
        return _Part(self, owner)

    def close(self, timeout_s: float = 0.0) -> None:
        """Refuse further calls and end those that wait; threads end with the call they run.

        Args:
            timeout_s: For the threads to end; they are not waited for any longer.
        """
        with self._changed:
            self._is_closed = True
            left = [item for each in self._owners.values() for item in each.waiting]
            for each in self._owners.values():
                each.waiting.clear()
            threads = self._threads - {threading.current_thread()}
            self._changed.notify_all()
        for _, future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(moderator_closed())
        _join(threads, timeout_s)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            owner, call, future = taken
            _work(call, future)
            del call, future, taken  # the calls may hold large objects
            self._give_back(owner)

    def _take(self) -> "tuple[str | None, Callable[[], Any], Future[Any]] | None":  # Any: of every type
        """Wait for a call; None if there is none for long, or the pool is closed."""
        with self._changed:
            self._num_idle += 1
            self._changed.wait_for(lambda: self._is_closed or self._next_owner() is not _NOBODY, _IDLE_S)
            self._num_idle -= 1
            owner = self._next_owner()
            if owner is _NOBODY:
                self._threads.discard(threading.current_thread())
                return None
            its = self._owners.pop(owner)
            self._owners[owner] = its  # moves the owner to the end of the queue
            its.num_running += 1
            self._num_running += 1
            return (owner, *its.waiting.popleft())

    def _next_owner(self) -> Any:  # Any: an owner, or the mark for none
        num_free = self._max_threads - self._num_running
        for owner, its in self._owners.items():
            if its.waiting and (owner is None or its.num_running < num_free):
                return owner
        return _NOBODY

    def _give_back(self, owner: str | None) -> None:
        with self._changed:
            its = self._owners[owner]
            its.num_running -= 1
            self._num_running -= 1
            if not its.num_running and not its.waiting:
                del self._owners[owner]
            self._changed.notify()


class _Part:
    """The pool as one owner uses it."""

    def __init__(self, pool: WorkerPool, owner: str | None) -> None:
        self._pool = pool
        self._owner = owner

    def submit(self, call: Callable[[], T], /) -> "Future[T]":
        """Start a call."""
        return self._pool.submit(call, owner=self._owner)


def _work(call: Callable[[], T], future: "Future[T]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # any exception belongs to the caller
        future.set_exception(error)
        del future, call  # the error and the frame would keep each other alive
    else:
        future.set_result(result)


def _join(threads: Iterable[threading.Thread], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def moderator_closed() -> StreamClosedError:
    """Return the error of whoever uses a moderator that was closed."""
    return StreamClosedError("the moderator is closed; load the guard again")
