"""`streamward doctor`: what of an installation works here, and how fast."""

import argparse
import json
import os
import platform
import re
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from streamward.cli.common import DEFAULT_GUARD, ExitCode, load_guard_of
from streamward.errors import InputError, StreamwardError
from streamward.reasons import reason_of

if TYPE_CHECKING:
    from streamward.moderation.moderator import Moderator

_TEXT = "The quick brown fox, who was seven years old, jumped over the lazy dog and ran away into the green hills. "
_NUM_WORDS = 40
_MAX_PORT = 65535
_MIN_FREE_BYTES = 2**30  # a prepared guard takes up to half of it
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*extra\s*==\s*['\"]([\w-]+)['\"]")
_EXAMPLES = """\
examples:
  streamward doctor
  streamward doctor --guard stream-135m-small --port 9000
  streamward doctor --json
"""


class State(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    NOTE = "note"
    FAILED = "failed"


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    state: State
    detail: str


_STYLES = {State.OK: "green", State.NOTE: "yellow", State.FAILED: "bold red"}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="check the installation: kernels, guard, cache, speed, extras, port",
        description=(
            "Checks what runs here: the CPU path, the cache, the guard and its time per token, the extras that are"
            " installed, and whether the service's port is free. Exit code 1 if something failed."
        ),
        epilog=_EXAMPLES,
    )
    parser.add_argument("--guard", default=DEFAULT_GUARD, metavar="G", help="guard to load (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="port to listen on (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look at everything, and say what was found."""
    checks = [
        _checked("version", lambda: Check("version", State.OK, _versions())),
        _checked("cpu", _cpu),
        _checked("cache", _cache),
        *_guard(arguments.guard),
        *_extras(),
        _checked("port", lambda: _port(arguments.host, arguments.port)),
    ]
    if arguments.json:
        print(json.dumps({check.name: {"state": check.state, "detail": check.detail} for check in checks}))
    else:
        from rich.console import Console  # imported late, because other commands do not need it
        from rich.text import Text

        console = Console(highlight=False)
        for check in checks:
            console.print(
                Text(f"{check.name:16} ").append(f"{check.state:7}", _STYLES[check.state]).append(check.detail),
                soft_wrap=True,
            )
    is_failed = any(check.state is State.FAILED for check in checks)
    return ExitCode.FAILURE if is_failed else ExitCode.ALLOWED


def _checked(name: str, look: Callable[[], Check]) -> Check:
    """Return what a check found; one that breaks has failed."""
    try:
        return look()
    except StreamwardError as error:
        return Check(name, State.FAILED, str(error))
    except (OSError, ImportError) as error:
        return Check(name, State.FAILED, reason_of(error))


def _versions() -> str:
    return f"streamward {version('streamward')}, Python {platform.python_version()}, {platform.platform()}"


def _cpu() -> Check:
    from streamward.cli.cpu_path import cpu_path

    path = cpu_path()
    detail = f"{path.kernels}; {path.threads} threads, {os.cpu_count()} CPUs seen, {platform.machine()}"
    return Check("cpu", State.OK if path.is_native else State.NOTE, detail)


def _cache() -> Check:
    from streamward.bundled.base import cache_folder

    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Check("cache", State.FAILED, f"{folder} cannot be written; set STREAMWARD_CACHE to another folder")
    free = shutil.disk_usage(existing).free
    state = State.OK if free >= _MIN_FREE_BYTES else State.NOTE
    return Check("cache", state, f"{folder}, {free / 2**30:.1f} GiB free")


def _guard(name: str) -> Iterator[Check]:
    start = time.perf_counter()
    try:
        with load_guard_of(name) as guard:
            loaded_s = time.perf_counter() - start
            what = "endpoint" if name.startswith(("http://", "https://")) else str(Path(name))
            yield Check("guard", State.OK, f"{what}, loaded in {loaded_s:.1f} s")
            yield _checked("time per token", lambda: _token_time(guard))
    except StreamwardError as error:
        yield Check("guard", State.FAILED, str(error))


def _token_time(guard: "Moderator") -> Check:
    try:
        stream = guard.stream()
    except InputError as error:  # a guard that judges whole texts
        return Check("time per token", State.NOTE, str(error))
    words = (_TEXT * (_NUM_WORDS // len(_TEXT.split()) + 1)).split()[:_NUM_WORDS]
    per_token_ms = []
    with stream:
        for word in words:
            start = time.perf_counter()
            num_tokens = len(stream.feed(f"{word} "))
            if num_tokens:
                per_token_ms.append((time.perf_counter() - start) * 1000 / num_tokens)
    quick, slow = statistics.median(per_token_ms), max(per_token_ms)
    return Check(
        "time per token", State.OK, f"{quick:.1f} ms (median of {len(per_token_ms)} words; most {slow:.1f} ms)"
    )


def _extras() -> Iterator[Check]:
    """Say of each extra whether its packages are installed."""
    wanted: dict[str, list[str]] = {}
    for requirement in requires("streamward") or []:
        if found := _REQUIREMENT.match(requirement):
            wanted.setdefault(found[2], []).append(found[1])
    for extra, packages in wanted.items():
        missing = [package for package in packages if not _is_installed(package)]
        detail = "installed" if not missing else f"missing {', '.join(missing)}: pip install 'streamward[{extra}]'"
        yield Check(f"extra {extra}", State.OK if not missing else State.NOTE, detail)


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _port(host: str, port: int) -> Check:
    if not 0 < port <= _MAX_PORT:
        return Check("port", State.FAILED, f"{port} is no port; it must be from 1 to {_MAX_PORT}")
    try:
        with socket.create_server((host, port)):
            return Check("port", State.OK, f"{host}:{port} is free")
    except OSError as error:
        return Check("port", State.FAILED, f"{host}:{port} cannot be listened on: {reason_of(error)}")
