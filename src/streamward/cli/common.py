"""Parts that commands share: exit codes, the guard's options, messages to the user."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING

from streamward.errors import ConfigError, InputError
from streamward.reasons import reason_of
from streamward.schema import Action, Decision
from streamward.text_files import decode_plain, decode_structured

if TYPE_CHECKING:
    from streamward.moderation.moderator import Moderator

DEFAULT_GUARD = "stream-135m"
Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


class ExitCode(IntEnum):
    """The outcome of a command."""

    ALLOWED = 0
    FAILURE = 1
    BAD_INPUT = 2
    BLOCKED = 3
    INTERRUPTED = 130


@contextmanager
def needing(user: str, extra: str) -> Iterator[None]:
    """Name the extra to install where a module is missing that the imports of a `with` block need.

    Args:
        user: Part that needs the module, with its verb, as in "the store needs".
        extra: Extra of the package that has it.

    Raises:
        ConfigError: A module is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"{user} {error.name}; run: pip install 'streamward[{extra}]'") from error


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
    from streamward.loading import load as load_guard  # imported late, because it takes seconds

    return load_guard(arguments.guard, policy=arguments.policy)


def load_guard_of(name: str) -> "Moderator":
    """Load a guard under the default policy."""
    from streamward.loading import load as load_guard

    return load_guard(name)


def exit_code(decision: Decision) -> ExitCode:
    """Return how a command ends that came to this decision."""
    if decision.error is not None:
        return ExitCode.FAILURE
    if decision.action in (Action.BLOCK, Action.REPLACE):
        return ExitCode.BLOCKED
    return ExitCode.ALLOWED


def read_text(path: str) -> str:
    """Read a text file in UTF-8 or UTF-16, or standard input for `-`.

    Raises:
        InputError: The file cannot be read, or is in another encoding.
    """
    try:
        return decode_plain(read_bytes(path))
    except InputError as error:
        raise InputError(f"{called(path)}: {error}") from error


def read_json(path: str) -> object:
    """Read a JSON file in UTF-8 or UTF-16, or standard input for `-`.

    Raises:
        InputError: The file cannot be read, or is not JSON; says where not.
    """
    data = read_bytes(path)
    try:
        return json.loads(decode_structured(data))
    except InputError as error:
        raise InputError(f"{called(path)} is not JSON: {error}") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{called(path)} is not JSON from {place} on") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{called(path)} is not JSON that can be read: too long a number, too deep a nesting"
        ) from error


def open_bytes(path: str) -> IO[bytes]:
    """Open a file, or standard input for `-`.

    Raises:
        InputError: The file cannot be read.
    """
    if path == "-":
        return sys.stdin.buffer
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise InputError(f"{called(path)} cannot be read: {reason_of(error)}") from error
    except ValueError as error:  # a NUL byte in the path
        raise InputError(f"{called(path)} cannot be read: that is not a path") from error


def read_bytes(path: str) -> bytes:
    """Read a file, or standard input for `-`.

    Raises:
        InputError: The file cannot be read.
    """
    with open_bytes(path) as file:
        return file.read()


def called(path: str) -> str:
    """Return how messages call a file."""
    return "standard input" if path == "-" else repr(path)


def say(message: str) -> None:
    """Tell the user something beside the output."""
    print(f"streamward: {message}", file=sys.stderr)
