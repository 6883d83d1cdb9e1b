"""Processes of a command under test: found to be killed, and watched until something is there."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from streamward.errors import StreamwardError

_LIMIT_S = 240.0
_STEP_S = 0.1


def start(arguments: Sequence[str], *, log: Path) -> "subprocess.Popen[bytes]":
    """Start `streamward` with arguments; what it says goes to a file."""
    with log.open("ab") as output:
        return subprocess.Popen([sys.executable, "-m", "streamward", *arguments], stdout=output, stderr=output)


def wait_until(is_true: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Wait while a process runs."""
    for _ in range(round(_LIMIT_S / _STEP_S)):
        if is_true():
            return
        try:
            code = process.wait(_STEP_S)
        except subprocess.TimeoutExpired:
            continue
        raise StreamwardError(f"the command ended with {code} too early")
    raise StreamwardError("it took too long")


def descendants(pid: int, *, title: str) -> list[int]:
    """Return the processes under another whose command line begins like this."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:  # it has just ended
            continue
        parents[int(entry.name)] = int(fields[1])
    found = []
    for each in parents:
        above: int | None = each
        while above is not None and above != pid:
            above = parents.get(above)
        if above == pid and titles[each].startswith(title):
            found.append(each)
    return found


def kill(pid: int) -> None:
    """Kill a process, without a chance to tidy up."""
    os.kill(pid, signal.SIGKILL)
