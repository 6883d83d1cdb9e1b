"""Objects that are closed at the end of a `with` block."""

from types import TracebackType
from typing import Self


class ClosedOnExit:
    """Closes itself at the end of a `with` block."""

    def __enter__(self) -> Self:
        """Return the object; it is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the object."""
        self.close()

    def close(self) -> None:
        """Free what the object holds."""
        raise NotImplementedError
