"""A PostgreSQL of a test's own, where Debian's packages are installed."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POSTGRES_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def has_postgres() -> bool:
    """Whether a server can be started here: it refuses to run as root, so root needs the user `postgres`."""
    if not POSTGRES_BINARIES:
        return False
    return os.geteuid() != 0 or any(user.pw_name == "postgres" for user in pwd.getpwall())


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Start a server on a socket in a folder; yields its URL."""
    binaries, data = POSTGRES_BINARIES[-1], folder / "data"
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    folder.mkdir(parents=True)
    if prefix:
        shutil.chown(folder, "postgres", "postgres")
    run([*prefix, str(binaries / "initdb"), "-D", str(data), "-U", "streamward", "-A", "trust", "--no-sync"])
    options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
    control = [*prefix, str(binaries / "pg_ctl"), "-D", str(data), "-w"]
    run([*control, "-o", options, "-l", str(folder / "log"), "start"])
    try:
        yield f"postgresql://streamward@/postgres?host={folder}"
    finally:
        run([*control, "-m", "immediate", "stop"])


def run(command: list[str]) -> None:
    """Run a program that must succeed."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
