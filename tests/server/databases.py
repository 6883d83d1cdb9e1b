"""A PostgreSQL of a test's own, where Debian's packages are installed."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POSTGRES_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


def has_postgres() -> bool:
    """Whether a server can be started here: it refuses to run as root, so root needs the user `postgres`."""
    if not POSTGRES_BINARIES:
        return False
    return os.geteuid() != 0 or any(user.pw_name == "postgres" for user in pwd.getpwall())


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Start a server on a socket in a folder; yields its URL."""
    folder.mkdir(parents=True)
    if AS_POSTGRES:
        shutil.chown(folder, "postgres", "postgres")
    run("initdb", folder, "-U", "streamward", "-A", "trust", "--no-sync")
    start_postgres(folder)
    try:
        yield f"postgresql://streamward@/postgres?host={folder}"
    finally:
        stop_postgres(folder)


def start_postgres(folder: Path) -> None:
    """Start a server that was stopped."""
    options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
    run("pg_ctl", folder, "-w", "-o", options, "-l", str(folder / "log"), "start")


def stop_postgres(folder: Path) -> None:
    """Stop a server as if it had crashed."""
    run("pg_ctl", folder, "-w", "-m", "immediate", "stop")


def run(program: str, folder: Path, *arguments: str) -> None:
    """Run one of PostgreSQL's programs, which must succeed."""
    command = [*AS_POSTGRES, str(POSTGRES_BINARIES[-1] / program), "-D", str(folder / "data"), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
