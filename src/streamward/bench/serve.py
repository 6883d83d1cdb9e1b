"""`streamward bench-serve`: what a guard adds to streams that pass through the gateway, and how many of them fit."""

import asyncio
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamward.bench.processes import running_module
from streamward.bench.serve_load import Script, ScriptedUpstream, StreamTally, run_clients
from streamward.errors import StreamwardError
from streamward.settings import Settings

PATHS = ("direct", "unguarded", "guarded")
"""Past the gateway; through it without a guard; through it with the embedded guard."""
_START_S = 120.0
_SAMPLE_S = 1.0


class LoadConfig(Settings):
    """Settings of one load measurement."""

    rate: float = 15.0
    """Tokens a second of each stream."""
    answer_tokens: int = 150
    """Words of one answer; then the next request follows."""
    seconds: float = 30.0
    """Measured, of each load."""
    ramp_s: float = 10.0
    """Before that, while clients start."""
    warm_up_s: float = 5.0
    """Before that: the first passes of a service prepare its kernels."""
    max_p99_ms: float = 500.0
    """A load is sustained if 99 % of the tokens arrive within this, nothing fails and nothing is cut."""


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """One load on one path. Milliseconds from the upstream's sending of a token to its arrival at the client.

    Attributes:
        path: One of `PATHS`.
        streams: Open at the same time.
        tokens: That arrived while it was measured.
        first_p50_ms: From a request to its first text; likewise p99.
        done: Answers that arrived whole, the ramp's among them.
        stopped: Answers that the guard cut: the text is harmless, so there should be none.
        failed: Requests refused or broken off.
        service_cores: CPU time of the service by time; likewise that of the load generator, upstream included.
        rss_start_mb: Memory of the service at the beginning of what was measured; at half time, at the end and the most
            likewise.
        is_borne: Whether the load stayed within the limits.
    """

    path: str
    streams: int
    seconds: float
    tokens: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    first_p50_ms: float
    first_p99_ms: float
    done: int
    stopped: int
    failed: int
    service_cores: float
    load_cores: float
    rss_start_mb: float
    rss_half_mb: float
    rss_end_mb: float
    rss_max_mb: float
    is_borne: bool


class Bench:
    """Runs loads, each against a service of its own."""

    def __init__(self, config: LoadConfig, *, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say

    def compare(self, num_streams: int, paths: Sequence[str] = PATHS) -> Iterator[LoadRecord]:
        """Measure paths with one load."""
        for path in paths:
            yield self.measure(path, num_streams)

    def find_most(self, known: LoadRecord) -> Iterator[LoadRecord]:
        """Double the streams until a load is not borne, then halve the gap until it is below an eighth.

        Args:
            known: A load of the guarded path that was measured already.
        """
        low, high = (known.streams, 0) if known.is_borne else (0, known.streams)
        while not high or high - low > max(1, low // 8):
            streams = (low + high) // 2 if high else 2 * low
            record = self.measure("guarded", streams)
            yield record
            if record.is_borne:
                low = streams
            else:
                high = streams

    def measure(self, path: str, num_streams: int) -> LoadRecord:
        """Measure one load on one path."""
        self._say(f"{path}: {num_streams} streams for {self._config.seconds:g} s")
        return asyncio.run(self._measure(path, num_streams))

    async def _measure(self, path: str, num_streams: int) -> LoadRecord:
        config = self._config
        upstream = ScriptedUpstream(Script.of(config.answer_tokens, rate=config.rate))
        async with upstream.serving() as base_url, _target(path, base_url, num_streams) as target:
            await run_clients(target.url, upstream, num_streams=num_streams, seconds=config.warm_up_s, ramp_s=0.0)
            watch = asyncio.create_task(_watch(target.pid, seconds=config.seconds, ramp_s=config.ramp_s))
            tally = await run_clients(
                target.url, upstream, num_streams=num_streams, seconds=config.seconds, ramp_s=config.ramp_s
            )
            return self._record(path, num_streams, tally, await watch)

    def _record(self, path: str, num_streams: int, tally: StreamTally, usage: "_Usage") -> LoadRecord:
        p50, p99, most = _percentiles(tally.chunk_s)
        first_p50, first_p99, _ = _percentiles(tally.first_s)
        is_clean = not tally.num_failed and not tally.num_stopped and len(tally.chunk_s) > 0
        return LoadRecord(
            path=path,
            streams=num_streams,
            seconds=self._config.seconds,
            tokens=len(tally.chunk_s),
            p50_ms=p50,
            p99_ms=p99,
            max_ms=most,
            first_p50_ms=first_p50,
            first_p99_ms=first_p99,
            done=tally.num_done,
            stopped=tally.num_stopped,
            failed=tally.num_failed,
            service_cores=usage.service_cores,
            load_cores=usage.load_cores,
            rss_start_mb=usage.rss_mb[0],
            rss_half_mb=usage.rss_mb[len(usage.rss_mb) // 2],
            rss_end_mb=usage.rss_mb[-1],
            rss_max_mb=max(usage.rss_mb),
            is_borne=is_clean and self._kept_up(tally, num_streams) and p99 <= self._config.max_p99_ms,
        )

    def _kept_up(self, tally: StreamTally, num_streams: int) -> bool:
        """Return whether about as many tokens arrived as expected at this rate; a backlog would hide in a short run."""
        return len(tally.chunk_s) >= 0.9 * num_streams * self._config.rate * self._config.seconds


def _percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    if not len(seconds):
        return (0.0, 0.0, 0.0)
    p50, p99, most = (float(value) for value in np.percentile(np.asarray(seconds) * 1e3, [50, 99, 100]))
    return round(p50, 2), round(p99, 2), round(most, 2)


@dataclass(frozen=True, slots=True)
class _Target:
    """Address that clients ask; pid of the service, None where there is none."""

    url: str
    pid: int | None


@dataclass(frozen=True, slots=True)
class _Usage:
    service_cores: float
    load_cores: float
    rss_mb: Sequence[float]


@asynccontextmanager
async def _target(path: str, base_url: str, num_streams: int) -> AsyncIterator[_Target]:
    if path == "direct":
        yield _Target(f"{base_url}/chat/completions", None)
        return
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        settings = Path(folder) / "serve.toml"
        settings.write_text(_settings(Path(folder), base_url, port=port, num_streams=num_streams), encoding="utf-8")
        with _service(settings, is_guarded=path == "guarded") as process:
            await asyncio.to_thread(_wait_for, f"http://127.0.0.1:{port}/ready", process)
            yield _Target(f"http://127.0.0.1:{port}/scripted/v1/chat/completions", process.pid)


def _settings(folder: Path, base_url: str, *, port: int, num_streams: int) -> str:
    room = 2 * num_streams + 16
    return f"""
[listen]
port = {port}
max_connections = {2 * room}
max_connections_per_peer = {2 * room}
[auth]
required = false
max_concurrent = {room}
requests_per_minute = 1000000
[limits]
max_in_flight = {room}
drain_s = 1.0
[store]
url = "sqlite:///{(folder / "service.sqlite3").as_posix()}"
[console]
enabled = false
[log]
level = "error"
[upstreams.scripted]
base_url = {json.dumps(base_url)}
max_connections = {room}
"""


@contextmanager
def _service(settings: Path, *, is_guarded: bool) -> Iterator["subprocess.Popen[bytes]"]:
    guard = "embedded" if is_guarded else "none"
    with running_module("streamward.cli.bench_target", str(settings), guard) as process:
        yield process


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:  # the service does not answer yet
            time.sleep(0.2)
    raise StreamwardError("the service to be measured did not start; its messages are above")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _watch(pid: int | None, *, seconds: float, ramp_s: float) -> _Usage:
    """Sample memory and CPU time of the service, and CPU time of this process, while the load is measured."""
    await asyncio.sleep(ramp_s)
    start, service, own = time.perf_counter(), _cpu_s(pid), time.process_time()
    rss = [_rss_mb(pid)]
    while (left := start + seconds - time.perf_counter()) > 0:
        await asyncio.sleep(min(_SAMPLE_S, left))
        rss.append(_rss_mb(pid))
    wall = time.perf_counter() - start
    return _Usage(round((_cpu_s(pid) - service) / wall, 2), round((time.process_time() - own) / wall, 2), rss)


def _cpu_s(pid: int | None) -> float:
    """Return CPU seconds of a process (proc(5): the 14th and 15th field, in ticks)."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int | None) -> float:
    if pid is None:
        return 0.0
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
