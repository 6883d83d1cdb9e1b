"""Time from the start of a process to its first use: of a service until it is ready, and of `streamward moderate`.

    python benchmarks/startup.py [--repeats 7] [--python PYTHON]

Prints, of each, the least and the median time and the processor time (user and system) that it had used by then,
which other work on the machine changes less. The first run of each, which reads files from the disk, does not count.
"""

import argparse
import http.client
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def service(python: str, folder: Path) -> tuple[float, float]:
    """Start a service with the embedded guard; return seconds until it is ready, and of the processor."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / "serve.toml"
    settings.write_text(
        f'[listen]\nport = {port}\n[store]\nurl = "sqlite:///{folder}/service.sqlite3"\n[log]\nlevel = "warning"\n'
    )
    start = time.perf_counter()
    process = subprocess.Popen([python, "-m", "streamward", "serve", str(settings)])
    try:
        while process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            with suppress(OSError):
                connection.request("GET", "/ready")
                if connection.getresponse().status == 200:
                    seconds = time.perf_counter() - start
                    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                    return seconds, (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
            connection.close()
            time.sleep(0.005)
        raise SystemExit("the service did not start")
    finally:
        process.terminate()
        process.wait(60)


def moderate(python: str, folder: Path) -> tuple[float, float]:
    """Run `streamward moderate` on a prompt; return its seconds, and of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [python, "-m", "streamward", "moderate", "How do I bake bread?"], check=True, stdout=subprocess.DEVNULL
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    for name, run in (("service ready", service), ("streamward moderate", moderate)):
        with tempfile.TemporaryDirectory() as folder:
            found = [run(given.python, Path(folder)) for _ in range(given.repeats + 1)][1:]
        wall, cpu = zip(*found, strict=True)
        print(
            f"{name:20} least {min(wall):.2f} s, median {statistics.median(wall):.2f} s;"
            f" processor least {min(cpu):.2f} s, median {statistics.median(cpu):.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
