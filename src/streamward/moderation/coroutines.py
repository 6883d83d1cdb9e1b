"""Runs a guard's calls, which are coroutines: in the thread of the caller, or for an event loop without a thread."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from streamward.engine.outputs import StepOutput
from streamward.errors import CallCancelledError
from streamward.guard_call import GuardCall, current_call
from streamward.moderation.token_scorer import PendingScore
from streamward.moderation.waiting import fail
from streamward.moderation.worker_pool import Submitter

T = TypeVar("T")

GuardCoroutine = Coroutine[PendingScore, None, T]
"""A call of a guard. It suspends at scores that are pending, and goes on once they are there."""

_LOOK_S = 0.5  # how often a waiting caller checks that the worker is alive


class Scores:
    """The object that a `GuardCoroutine` awaits: `outputs = await Scores(scorer.submit(...))`."""

    def __init__(self, pending: PendingScore) -> None:
        """Take scores that are there already, or not."""
        self._pending: PendingScore | None = pending

    def __await__(self) -> Generator[PendingScore, None, list[StepOutput]]:
        """Suspend until the scores are there; raise what the engine's worker has raised."""
        pending, self._pending = self._pending, None
        assert pending is not None, "scores are awaited once"
        if not pending.done():
            yield pending
        try:
            return pending.result()
        finally:
            del pending  # an error's traceback and the future would keep each other alive


async def without_waiting(judge: Callable[[], T]) -> T:
    """Make a call that knows no coroutines as if it were one; it holds its thread to the end."""
    return judge()


def run_blocking(coroutine: GuardCoroutine[T], *, call: GuardCall | None = None) -> T:
    """Run a call in this thread, which waits with it. Whatever ends the wait ends the guard's work too.

    Args:
        coroutine: The call, not begun.
        call: Stands for it; by default the one that this thread judges for.
    """
    call = current_call() if call is None else call
    with closing(coroutine), call.current():
        while True:
            try:
                pending = coroutine.send(None)
            except StopIteration as end:
                result: T = end.value
                return result
            wait_for(pending, call=call)
            del pending


def wait_for(pending: PendingScore, *, call: GuardCall) -> None:
    """Wait for scores in this thread. Cancelling the call makes them fail; so does an interrupt, which is raised."""
    try:
        with call.ending(partial(fail, pending)):
            while not pending.done():
                with suppress(TimeoutError):
                    pending.exception(_LOOK_S)
                pending.check()
    except BaseException:  # nobody waits any more
        fail(pending, CallCancelledError("the call was cancelled"))
        raise


async def run_async(
    make: Callable[[], GuardCoroutine[T]],
    *,
    executor: Submitter | None,
    call: GuardCall,
    undo: Callable[[T], None] | None = None,
) -> T:
    """Run a call for an event loop. While it waits for the engine it holds no thread.

    Cancelling the task that waits ends the call at once; its tokens leave the engine with the next step.

    Args:
        make: Begins the call.
        executor: Whose threads compute between two waits; None computes in the event loop.
        call: Stands for it.
        undo: Is given a result that came too late for the task that was cancelled.
    """
    advance: Callable[[], _Portion[T]] = partial(_begin, make, call)
    coroutine: GuardCoroutine[T] | None = None
    while True:
        portion = advance() if executor is None else await _computed(executor, advance, coroutine, call, undo)
        coroutine = portion.coroutine
        if portion.pending is None:
            assert portion.end is not None
            return portion.end.result
        try:
            await _scored(portion.pending, call)
        except BaseException:
            coroutine.close()
            raise
        advance = partial(_advance, coroutine, call)
        del portion


@dataclass(frozen=True, slots=True)
class _Returned(Generic[T]):
    """The end of a coroutine."""

    result: T


@dataclass(frozen=True, slots=True)
class _Portion(Generic[T]):
    """The state of a coroutine after it computed: it waits for scores now, or has ended."""

    coroutine: GuardCoroutine[T]
    pending: PendingScore | None = None
    end: _Returned[T] | None = None


def _begin(make: Callable[[], GuardCoroutine[T]], call: GuardCall) -> _Portion[T]:
    call.check()
    return _advance(make(), call)


def _advance(coroutine: GuardCoroutine[T], call: GuardCall) -> _Portion[T]:
    """Run a coroutine in this thread until it waits or ends."""
    with call.current():
        try:
            return _Portion(coroutine, pending=coroutine.send(None))
        except StopIteration as end:
            return _Portion(coroutine, end=_Returned(end.value))


async def _computed(
    executor: Submitter,
    advance: Callable[[], _Portion[T]],
    coroutine: GuardCoroutine[T] | None,
    call: GuardCall,
    undo: Callable[[T], None] | None,
) -> _Portion[T]:
    """Run a coroutine, which is None before it begins, in a thread until it waits or ends."""
    running = executor.submit(advance)
    try:
        return await asyncio.wrap_future(running)
    except asyncio.CancelledError:
        call.cancel()
        if not running.cancel():
            running.add_done_callback(partial(_abandon, undo))  # in its thread: the event loop may be gone by then
        elif coroutine is not None:  # no thread has started it
            coroutine.close()
        raise
    finally:
        del running


def _abandon(undo: Callable[[T], None] | None, running: "Future[_Portion[T]]") -> None:
    """End a call that nobody waits for, behind what a thread has just computed for it."""
    if running.cancelled() or running.exception() is not None:
        return
    portion = running.result()
    if portion.pending is not None:
        fail(portion.pending, CallCancelledError("the call was cancelled"))
        portion.coroutine.close()
    elif undo is not None and portion.end is not None:
        undo(portion.end.result)


async def _scored(pending: PendingScore, call: GuardCall) -> None:
    """Wait for scores in an event loop. Cancelling the call, or the task, makes them fail."""
    loop = asyncio.get_running_loop()
    is_there: asyncio.Future[None] = loop.create_future()

    def tell(_: object) -> None:
        with suppress(RuntimeError):  # the event loop is gone
            loop.call_soon_threadsafe(_resolve, is_there)

    pending.add_done_callback(tell)
    watch = _Watch(loop, pending)
    try:
        with call.ending(partial(fail, pending)):
            await is_there
    except BaseException:
        call.cancel()
        fail(pending, CallCancelledError("the call was cancelled"))
        raise
    finally:
        watch.stop()


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class _Watch:
    """Makes sure from time to time, from an event loop, that somebody works on scores that are pending."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pending: PendingScore) -> None:
        self._loop = loop
        self._pending = pending
        self._timer = loop.call_later(_LOOK_S, self._look)

    def stop(self) -> None:
        """Stop."""
        self._timer.cancel()

    def _look(self) -> None:
        self._pending.check()
        self._timer = self._loop.call_later(_LOOK_S, self._look)
