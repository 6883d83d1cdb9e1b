"""Progress through a file of rows, on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamward.cli.common import say

_EVERY_S = 10.0


@contextmanager
def row_progress() -> Iterator[Callable[[int], object]]:
    """Count rows while a person watches and the output goes elsewhere; gives what is to be told of further rows."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("judged"), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("rows", total=None)
        yield lambda rows: progress.advance(task, rows)


@contextmanager
def file_progress() -> Iterator[Callable[[int, int], object]]:
    """Show how many rows of how many are finished, in lines where there is no terminal; gives what is to be told."""
    if not sys.stderr.isatty():
        yield _Lines().tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("judged"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("rows", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show how far the stage of a long run is, in lines where there is no terminal.

    Gives what is to be told: the stage, and how much of how much is done.
    """
    if not sys.stderr.isatty():
        yield _StageLines().tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=None)

        def advance(stage: str, done: int, total: int) -> None:
            progress.update(task, description=stage, completed=done, total=total)

        yield advance


class _StageLines:
    def __init__(self) -> None:
        self._stage = ""
        self._told_at = -_EVERY_S

    def tell(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or stage != self._stage or now - self._told_at >= _EVERY_S:
            self._stage, self._told_at = stage, now
            say(f"{stage}: {done} of {total}")


class _Lines:
    def __init__(self) -> None:
        self._told_at = -_EVERY_S

    def tell(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._told_at >= _EVERY_S:
            self._told_at = now
            say(f"judged {done} of {total} rows")
