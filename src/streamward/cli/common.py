"""What commands share: exit codes, the guard's options, messages to the user."""

import argparse
import sys
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from streamward.errors import InputError
from streamward.schema import Action, Decision

if TYPE_CHECKING:
    from streamward.moderation.moderator import Moderator

DEFAULT_GUARD = "stream-135m"
Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


class ExitCode(IntEnum):
    """How a command ended."""

    ALLOWED = 0
    FAILURE = 1
    BAD_INPUT = 2
    BLOCKED = 3
    INTERRUPTED = 130


def add_guard_options(parser: argparse.ArgumentParser) -> None:
    """Add `--guard` and `--policy`."""
    parser.add_argument(
        "--guard",
        default=DEFAULT_GUARD,
        metavar="G",
        help="embedded guard, checkpoint folder or hub id (default: %(default)s)",
    )
    parser.add_argument(
        "--policy", default="strict", metavar="P", help="strict, loose or a TOML file (default: %(default)s)"
    )


def load(arguments: argparse.Namespace) -> "Moderator":
    """Load the guard that the options name."""
    from streamward.loading import load as load_guard  # seconds: not for --help

    return load_guard(arguments.guard, policy=arguments.policy)


def exit_code(decision: Decision) -> ExitCode:
    """Return how a command ends that came to this decision."""
    if decision.error is not None:
        return ExitCode.FAILURE
    if decision.action in (Action.BLOCK, Action.REPLACE):
        return ExitCode.BLOCKED
    return ExitCode.ALLOWED


def read_text(path: str) -> str:
    """Read a file, or standard input for `-`; bytes that are no UTF-8 become U+FFFD.

    Raises:
        InputError: The file cannot be read.
    """
    return read_bytes(path).decode("utf-8", "replace")


def read_bytes(path: str) -> bytes:
    """Read a file, or standard input for `-`.

    Raises:
        InputError: The file cannot be read.
    """
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) else "bad path"
        raise InputError(f"{path!r} cannot be read: {reason}") from error


def say(message: str) -> None:
    """Tell the user something beside the output."""
    print(f"streamward: {message}", file=sys.stderr)
