"""What callers who abuse a service cost one who does not: its p50 and p99 beside its own quiet ones.

    python benchmarks/abuse.py [--guard none embedded] [--attack "all three"] [--seconds 20] [--json FILE]

Starts a service on a loopback port for each guard and attacks it from another process: 64 anonymous connections whose
bodies of 2 MiB stall, 1,000 wrong keys a second, 500 silent WebSockets of one key, and all three. Quiet times are
measured by turns with each. Whoever is refused tries again. Needs the extra serve.
"""

import argparse
import asyncio
import http.client
import json
import multiprocessing
import random
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from streamward.bench.serve_report import environment
from streamward.server.config import StoreConfig
from streamward.server.keys import KeyStore
from streamward.server.store import open_store

MAX_SECONDS = 60.0
ROUNDS = 4
STALLED, WRONG_PER_S, SOCKETS = 64, 1000, 500
BODY = json.dumps({"prompt": "How do I bake bread?", "response": "Take flour, water and salt, and wait."}).encode()
ATTACKS = ("stalled bodies", "wrong keys", "silent WebSockets", "all three")


@dataclass(frozen=True, slots=True)
class Measured:
    """What the good caller saw; `seen` counts what the bad ones were answered."""

    guard: str
    attack: str
    calls: int
    errors: int
    p50_ms: float
    p99_ms: float
    quiet_p50_ms: float
    quiet_p99_ms: float
    seen: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guard", nargs="+", choices=("none", "embedded"), default=["none", "embedded"])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each attack and of each quiet time, 60 at most")
    parser.add_argument("--rate", type=float, default=50.0, help="calls a second of the good caller")
    parser.add_argument("--attack", nargs="+", choices=ATTACKS, default=ATTACKS)
    parser.add_argument("--json", type=Path, help="append one record a line")
    arguments = parser.parse_args()
    seconds = min(arguments.seconds, MAX_SECONDS)
    for guard in arguments.guard:
        with serving(guard) as (port, keys):
            calls(port, keys[0], seconds=3.0, rate=arguments.rate)  # until it is warm
            for attack in arguments.attack:
                found = measure(guard, attack, port, keys, seconds=seconds, rate=arguments.rate)
                print(line(found), flush=True)
                if arguments.json is not None:
                    with arguments.json.open("a", encoding="utf-8") as records:
                        records.write(json.dumps({**asdict(found), "environment": environment()}) + "\n")


def line(found: Measured) -> str:
    return (
        f"{found.guard:9} {found.attack:18} p50 {found.p50_ms:7.2f} ms (quiet {found.quiet_p50_ms:7.2f})"
        f"  p99 {found.p99_ms:7.2f} ms (quiet {found.quiet_p99_ms:7.2f}, x{found.p99_ms / found.quiet_p99_ms:.2f})"
        f"  {found.calls} calls, {found.errors} errors; they saw {found.seen}"
    )


@contextmanager
def serving(guard: str) -> Iterator[tuple[int, list[str]]]:
    """A service in a process of its own; yields its port and two keys."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        store = f"sqlite:///{name}/service.sqlite3"
        settings = Path(name) / "serve.toml"
        settings.write_text(
            f'[listen]\nport = {port}\n[store]\nurl = "{store}"\n[log]\nlevel = "warning"\n[limits]\ndrain_s = 1.0\n'
        )
        engine = open_store(StoreConfig(url=store))
        keys = [KeyStore(engine=engine).create(tenant)[0] for tenant in ("good", "bad")]
        engine.dispose()
        process = subprocess.Popen([sys.executable, "-m", "streamward.cli.bench_target", str(settings), guard])
        try:
            wait_until_ready(port, process)
            yield port, keys
        finally:
            process.terminate()
            process.wait(30)


def wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                connection.close()
                return
        time.sleep(0.1)
    raise SystemExit("the service did not start")


def measure(guard: str, attack: str, port: int, keys: list[str], *, seconds: float, rate: float) -> Measured:
    """Measure the good caller without and under an attack, by turns: machines have moods."""
    context = multiprocessing.get_context("spawn")
    quiet: list[float] = []
    times: list[float] = []
    seen: Counter[str] = Counter()
    num_errors = 0
    for _ in range(ROUNDS):
        quiet += calls(port, keys[0], seconds=seconds / ROUNDS, rate=rate)[0]
        is_on, is_over, answers = context.Event(), context.Event(), context.Queue()
        attacker = context.Process(target=run_attack, args=(attack, port, keys[1], is_on, is_over, answers))
        attacker.start()
        is_on.wait(60)
        found, errors = calls(port, keys[0], seconds=seconds / ROUNDS, rate=rate)
        is_over.set()
        times, num_errors = times + found, num_errors + errors
        seen.update(answers.get(timeout=60))
        attacker.join(60)
    return Measured(guard, attack, len(times), num_errors, *percentiles(times), *percentiles(quiet), dict(seen))


def percentiles(times: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return round(cuts[49], 2), round(cuts[98], 2)


def calls(port: int, key: str, *, seconds: float, rate: float) -> tuple[list[float], int]:
    """Call at an even rate, one call after the other; return how long each took, in ms, and how many went wrong."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    times, errors = [], 0
    start = time.perf_counter()
    for number in range(int(seconds * rate)):
        time.sleep(max(0.0, start + number / rate - time.perf_counter()))
        began = time.perf_counter()
        connection.request("POST", "/v1/guard", BODY, headers)
        answer = connection.getresponse()
        answer.read()
        times.append((time.perf_counter() - began) * 1000)
        errors += answer.status != 200
    connection.close()
    return times, errors


def run_attack(attack: str, port: int, key: str, is_on: Event, is_over: Event, answers) -> None:
    """Attack until told to stop; then tell what was answered."""
    seen: Counter[str] = Counter()
    with suppress(TimeoutError):
        asyncio.run(attack_all(attack, port, key, is_on, is_over, seen))
    answers.put(dict(seen))


async def attack_all(attack: str, port: int, key: str, is_on: Event, is_over: Event, seen: Counter[str]) -> None:
    tasks = []
    if attack in ("stalled bodies", "all three"):
        tasks += [asyncio.create_task(stall(port, seen)) for _ in range(STALLED)]
    if attack in ("wrong keys", "all three"):
        each_s = 20 / WRONG_PER_S
        tasks += [asyncio.create_task(guess(port, seen, every_s=each_s)) for _ in range(20)]
    if attack in ("silent WebSockets", "all three"):
        tasks += [asyncio.create_task(be_silent(port, key, seen)) for _ in range(SOCKETS)]
    await asyncio.sleep(3.0)  # until all have tried
    is_on.set()
    async with asyncio.timeout(MAX_SECONDS + 10):
        await asyncio.to_thread(is_over.wait, MAX_SECONDS + 5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def stall(port: int, seen: Counter[str]) -> None:
    """Begin to send a body and stop, again whenever the connection is closed."""
    head = b"POST /v1/guard HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2097152\r\n\r\n"
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + b"x" * 65536)
            answer = await reader.read(-1)  # until it is closed
            seen[f"stalled {answer[9:12].decode()}"] += 1
            writer.close()
        await asyncio.sleep(0.5)


async def guess(port: int, seen: Counter[str], *, every_s: float) -> None:
    """Send another wrong key each time, at an even rate."""
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            start, number = time.perf_counter(), 0
            while True:
                await asyncio.sleep(max(0.0, start + number * every_s - time.perf_counter()))
                number += 1
                key = f"sw-abcdefghij-{secrets.token_urlsafe(32)}"
                writer.write(
                    f"GET /v1/usage HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
                )
                head = await reader.readuntil(b"\r\n\r\n")
                seen[f"key {head[9:12].decode()}"] += 1
                length = next(each for each in head.lower().split(b"\r\n") if each.startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))


async def be_silent(port: int, key: str, seen: Counter[str]) -> None:
    """Open a WebSocket and say nothing; where it is refused, try again."""
    headers = {"Authorization": f"Bearer {key}"}
    while True:
        try:
            async with connect(f"ws://127.0.0.1:{port}/v1/streams", additional_headers=headers) as socket_:
                seen["WebSockets open"] += 1
                await socket_.wait_closed()
        except InvalidStatus as error:
            seen[f"WebSocket {error.response.status_code}"] += 1
        except (OSError, TimeoutError, WebSocketException):
            seen["WebSocket failed"] += 1
        await asyncio.sleep(random.uniform(15, 45))


if __name__ == "__main__":
    main()
