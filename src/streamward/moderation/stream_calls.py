"""The calls of one stream: made one at a time, ended from any thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamward.errors import CallCancelledError, StreamClosedError
from streamward.guard_call import GuardCall, current_call


class StreamCalls:
    """Lets one call at a time change a stream, and ends it when the stream is cancelled or closed. Thread-safe."""

    def __init__(self) -> None:
        """Begin an open stream without a call."""
        self.is_closed = False
        self.lock = threading.Lock()
        """Held during a call."""
        self._is_cancelled = False
        self._call: GuardCall | None = None  # the call that is being made
        self._ending = threading.Lock()  # guards the other fields; never held for long

    def check_open(self, *, is_finished: bool) -> None:
        """Refuse a call of a stream that takes no more text.

        Raises:
            StreamClosedError: The stream is closed or finished.
        """
        if self.is_closed or is_finished:
            raise StreamClosedError("the stream is finished or closed; open another one")

    def check_finishable(self) -> None:
        """Refuse to finish a stream that was closed; raises a StreamClosedError."""
        if self.is_closed:
            raise StreamClosedError("the stream is closed; nothing can be finished")

    @contextmanager
    def calling(self, *, at_end: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Make one call at a time, which can be cancelled.

        Args:
            at_end: Called after the call, before the next one may begin.
        """
        call = current_call()
        with self.lock:
            with self._ending:
                if self._is_cancelled:
                    raise CallCancelledError("the stream was cancelled; close it")
                self._call = call
            try:
                call.check()
                yield
            finally:
                with self._ending:
                    self._call = None
                at_end()

    def cancel(self) -> None:
        """End the call that another thread makes, and every later one; does not wait."""
        with self._ending:
            self._is_cancelled = True
            if self._call is not None:
                self._call.cancel()

    def close(self, *, is_finished: bool) -> bool:
        """Close the stream; a call that another thread makes ends with a StreamClosedError.

        Args:
            is_finished: The call that is being made has the result and closes the stream itself.

        Returns:
            False if it was closed before.
        """
        with self._ending:
            if self.is_closed:
                return False
            self.is_closed = True
            if self._call is not None and not is_finished:
                self._call.cancel(StreamClosedError("the stream was closed"))
        return True
