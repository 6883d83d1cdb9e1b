"""Memory of a service with the embedded guard: with many open streams, or minute by minute under load.

    python benchmarks/memory.py [--streams 100] [--tokens 500] [--set engine.kv_cache=int8] [--json FILE]
    python benchmarks/memory.py --minutes 10 [--words-per-s 60] [--set ...] [--json FILE]

Starts a service on a loopback port and reads its resident memory from /proc (Linux). `anonymous` is what it allocated;
`file` are pages of mapped files (code, weights), which the system takes back when it needs memory. Without --minutes,
each stream gets a prompt and words until the guard has read `tokens` tokens of it, all different, so that no pages are
shared; then each gets one more word. With it, streams of 20 to 300 words come and go, and whole texts are judged
between them. Needs the extra serve.
"""

import argparse
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from streamward.bench.serve_report import environment

FIELDS = {"VmRSS": "resident", "RssAnon": "anonymous", "RssFile": "file"}
SYLLABLES = ("ba", "ko", "mi", "ter", "lan", "sho", "pre", "dun", "vi", "gar", "el", "os", "tun", "ri", "ma", "quen")
WORDS = ("the", "a", "of", "and", "to", "in", "is", "it", "that", "for", "you", "was", "on", "are", "with", "as")


class Service:
    """A running service, asked over one connection."""

    def __init__(self, port: int, process_id: int) -> None:
        self._port, self._process_id = port, process_id
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, body: Any) -> Any:
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        reply = self._connection.getresponse()
        text = reply.read()
        if reply.status >= 300:
            raise SystemExit(f"{path}: {reply.status} {text[:200].decode()}")
        return json.loads(text)

    def memory_mb(self) -> dict[str, float]:
        lines = Path(f"/proc/{self._process_id}/status").read_text().splitlines()
        values = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.split(":")[0] in FIELDS}
        return {FIELDS[name]: round(kibibytes * 1024 / 1e6, 1) for name, kibibytes in values.items()}


@contextmanager
def serving(settings: Sequence[str]) -> Iterator[Service]:
    """Run a service with settings like `engine.kv_cache=int8` until the block ends."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        given = {
            "listen.port": port,
            "auth.required": False,
            "auth.max_concurrent": 4096,
            "auth.requests_per_minute": 10**6,
            "store.url": f"sqlite:///{name}/service.sqlite3",
            "log.level": "warning",
            "streams.idle_s": 3600.0,
            **dict(setting.split("=", 1) for setting in settings),
        }
        config = Path(name) / "serve.toml"
        config.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in given.items()))
        process = subprocess.Popen([sys.executable, "-m", "streamward", "serve", str(config)])
        try:
            wait_until_ready(port, process)
            yield Service(port, process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _toml(value: Any) -> str:
    if isinstance(value, str) and not value.isdigit() and value not in ("true", "false"):
        return json.dumps(value)
    return value if isinstance(value, str) else json.dumps(value)


def wait_until_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise SystemExit("the service did not start")


def words(rng: random.Random, count: int) -> str:
    """Return words, half of them invented."""
    invented = ("".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(count))
    return " ".join(word if rng.random() < 0.5 else rng.choice(WORDS) for word in invented)


def open_streams(service: Service, *, streams: int, tokens: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what memory is at each stage, with times of the last one."""
    rng = random.Random(0)
    yield "ready", service.memory_mb()
    service.post("/v1/moderations", {"input": "Hello"})
    yield "first verdict", service.memory_mb()
    ids = []
    for _ in range(streams):
        opened = service.post("/v1/streams", {"prompt": words(rng, 12)})
        read = opened["prompt"]["num_tokens"] if "num_tokens" in (opened["prompt"] or {}) else 0
        while read < tokens:
            read += len(
                service.post(f"/v1/streams/{opened['stream']}/append", {"text": words(rng, 20) + " "})["events"]
            )
        ids.append(opened["stream"])
    yield f"{streams} streams open", {**service.memory_mb(), "tokens": read}
    times = []
    for name in ids:
        start = time.perf_counter()
        service.post(f"/v1/streams/{name}/append", {"text": words(rng, 1) + " "})
        times.append((time.perf_counter() - start) * 1e3)
    yield "one more word each", {**service.memory_mb(), "word_p50_ms": round(statistics.median(times), 1)}
    for name in ids:
        service.post(f"/v1/streams/{name}/close", {})
    yield "all closed", service.memory_mb()


def minutes_of_load(service: Service, *, minutes: int, words_per_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what memory is after each minute."""
    rng = random.Random(0)
    yield "ready", service.memory_mb()
    left: dict[str, int] = {}
    start, done = time.monotonic(), 0
    for minute in range(1, minutes + 1):
        before = done
        while time.monotonic() < start + minute * 60:
            while len(left) < 16:
                opened = service.post("/v1/streams", {"prompt": words(rng, rng.randint(3, 200))})
                left[opened["stream"]] = rng.randint(20, 300)
            name = rng.choice(list(left))
            service.post(f"/v1/streams/{name}/append", {"text": words(rng, 1) + " "})
            left[name] -= 1
            if left[name] == 0:
                del left[name]
                service.post(f"/v1/streams/{name}/close", {})
                service.post("/v1/moderations", {"input": words(rng, rng.randint(3, 400))})
            done += 1
            time.sleep(max(0.0, start + done / words_per_s - time.monotonic()))
        yield f"minute {minute}", {**service.memory_mb(), "words": done - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--minutes", type=int, help="instead of open streams: minutes of load")
    parser.add_argument("--words-per-s", type=float, default=60.0)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the service")
    parser.add_argument("--json", type=Path, help="append the record as a line")
    given = parser.parse_args()
    stages: dict[str, dict[str, Any]] = {}
    with serving(given.set) as service:
        if given.minutes is None:
            found = open_streams(service, streams=given.streams, tokens=given.tokens)
        else:
            found = minutes_of_load(service, minutes=given.minutes, words_per_s=given.words_per_s)
        for stage, memory in found:
            stages[stage] = memory
            print(f"{stage:22} " + "  ".join(f"{name} {value}" for name, value in memory.items()), flush=True)
    if given.json is not None:
        record = {"settings": given.set, "stages": stages, "environment": environment()}
        with given.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
