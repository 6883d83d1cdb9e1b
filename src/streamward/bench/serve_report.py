"""Records of `bench-serve` as JSON lines and as a short page."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from streamward.bench.serve import LoadConfig, LoadRecord
from streamward.kernels.library import load_kernels

_COLUMNS = (
    ("path", "path"),
    ("streams", "streams"),
    ("p50_ms", "token p50, ms"),
    ("p99_ms", "p99"),
    ("first_p50_ms", "first text p50, ms"),
    ("first_p99_ms", "p99"),
    ("service_cores", "service, cores"),
    ("load_cores", "load, cores"),
    ("rss_start_mb", "memory from, MB"),
    ("rss_half_mb", "half-way"),
    ("rss_end_mb", "to"),
    ("stopped", "cut"),
    ("failed", "failed"),
    ("is_borne", "sustained"),
)


def environment() -> dict[str, str | int]:
    """Say where it was measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        "kernels": load_kernels().unit,
    }


def write_json_lines(path: Path, config: LoadConfig, records: Sequence[LoadRecord]) -> None:
    """Write the environment and the settings as the first line, then one record per line."""
    first = {"environment": environment(), "config": config.model_dump()}
    lines = [first, *map(asdict, records)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def markdown(config: LoadConfig, records: Sequence[LoadRecord]) -> str:
    """Return a page about the records."""
    facts = environment()
    table = [
        "| " + " | ".join(title for _, title in _COLUMNS) + " |",
        "|" + "|".join(" --- " if name == "path" else " ---: " for name, _ in _COLUMNS) + "|",
    ]
    table += [_row(record) for record in records]
    return "\n".join(
        [
            f"# Guarded streams, {facts['date']}",
            "",
            f"{facts['cpu']}, {facts['cores']} cores; Python {facts['python']}, kernels {facts['kernels']}. Streams of"
            f" {config.rate:g} words per second, answers of {config.answer_tokens} words one after the other;"
            f" {config.seconds:g} s measured after a ramp of {config.ramp_s:g} s.",
            "",
            *table,
            "",
            "`direct`: past the gateway. `unguarded`: through it, nothing is judged. `guarded`: through it, with the"
            " embedded guard, nothing leaves unjudged. A token's time is from its sending by the upstream to its"
            " arrival at the client. The load generator (upstream and clients, one process) runs on the same machine:"
            " the cores it took were not there for the service.",
            "",
            *_added(records),
            *_most(config, records),
            "",
        ]
    )


def _row(record: LoadRecord) -> str:
    values = asdict(record)
    shown = [
        "yes" if value is True else "no" if value is False else str(value)
        for value in (values[name] for name, _ in _COLUMNS)
    ]
    return "| " + " | ".join(shown) + " |"


def _added(records: Sequence[LoadRecord]) -> list[str]:
    """Say what the guard adds, where the same load was measured on all paths."""
    bare = {record.streams: record for record in records if record.path == "unguarded" and record.tokens}
    lines = []
    for streams, without in bare.items():
        guarded = next((each for each in records if (each.path, each.streams) == ("guarded", streams)), None)
        if guarded is not None and guarded.tokens:
            lines.append(
                f"At {streams} streams the guard adds {guarded.p50_ms - without.p50_ms:.1f} ms to a token (p50;"
                f" p99 {guarded.p99_ms - without.p99_ms:.1f} ms) and"
                f" {guarded.first_p50_ms - without.first_p50_ms:.1f} ms to the first text"
                f" (p99 {guarded.first_p99_ms - without.first_p99_ms:.1f} ms)."
            )
    return lines


def _most(config: LoadConfig, records: Sequence[LoadRecord]) -> list[str]:
    guarded = [record for record in records if record.path == "guarded"]
    borne = max((record.streams for record in guarded if record.is_borne), default=0)
    return (
        [
            f"Most guarded streams sustained here: {borne} (p99 within {config.max_p99_ms:g} ms, at least 90 % of the"
            " tokens on time, nothing failed or cut)."
        ]
        if guarded
        else []
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
