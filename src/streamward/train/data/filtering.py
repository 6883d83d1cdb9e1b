"""Goes through the sources once and keeps the rows that are new, labelled and in no benchmark.

Each source leaves a part: its rows and its counts. A run that was interrupted reads the parts that are complete instead
of judging those sources again.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from streamward.data.decontaminate import Benchmarks
from streamward.data.duplicates import Duplicates
from streamward.data.fingerprints import fingerprint
from streamward.data.jsonl import Sample, check_row, source_name
from streamward.data.rows import Row, read_rows, replacing, write_rows
from streamward.errors import ConfigError, InputError
from streamward.train.data.config import DataConfig, DataSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceTally:
    """Counts of one source's rows, kept and dropped.

    Attributes:
        read: Rows in the file.
        dropped: Rows by reason.
        benchmarks: Rows that a benchmark holds, by benchmark.
    """

    name: str
    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    benchmarks: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> int:
        """Rows left."""
        return self.read - self.dropped.total()


class FilteredSource(NamedTuple):
    """One source, gone through."""

    source: DataSource
    rows: Path
    tally: SourceTally


def find_files(config: DataConfig, pattern: str) -> list[Path]:
    """Return the files a pattern names.

    Raises:
        ConfigError: There is none.
    """
    base = Path() if pattern.startswith("./") else config.data_root
    found = sorted(base.glob(pattern.removeprefix("./"))) if "*" in pattern else [base / pattern]
    if not found or not all(path.is_file() for path in found):
        raise ConfigError(f"there is no file {base / pattern}")
    return found


def filter_sources(config: DataConfig, folder: Path) -> list[FilteredSource]:
    """Go through every source; parts that are complete are taken as they are.

    Raises:
        ConfigError: A file is missing.
        InputError: A file cannot be read, or a row is wrong and `bad_rows` is `stop`.
    """
    files = [(source, path) for source in config.sources for path in find_files(config, source.file)]
    benchmark_files = [path for pattern in config.benchmarks for path in find_files(config, pattern)]
    parts = folder / _key(config, [*(path for _, path in files), *benchmark_files])
    benchmarks: Benchmarks | None = None
    duplicates = Duplicates(near=config.near_duplicates)
    done: list[FilteredSource] = []
    for number, (source, path) in enumerate(files):
        rows, counts = (parts / f"{number:03}-{source_name(path)}{suffix}" for suffix in (".jsonl.gz", ".json"))
        if counts.exists():  # written last
            for _, row in read_rows(rows):
                duplicates.check(check_row(row, where=str(rows), source=path.name))
            done.append(FilteredSource(source, rows, _read_tally(counts)))
            continue
        if benchmarks is None:
            benchmarks = Benchmarks(tqdm(benchmark_files, desc="benchmarks", unit="file", disable=None))
        tally = SourceTally(_name(path, config.data_root))
        tally = _sift_file(path, rows, source, tally=tally, benchmarks=benchmarks, duplicates=duplicates, config=config)
        _write_tally(counts, tally)
        logger.info("%s: %d of %d rows kept", tally.name, tally.kept, tally.read)
        done.append(FilteredSource(source, rows, tally))
    return done


def _name(path: Path, root: Path) -> str:
    inner = path.relative_to(root) if path.is_relative_to(root) else path
    return inner.with_name(source_name(path)).as_posix()


def _sift_file(
    path: Path,
    output: Path,
    source: DataSource,
    *,
    tally: SourceTally,
    benchmarks: Benchmarks,
    duplicates: Duplicates,
    config: DataConfig,
) -> SourceTally:
    read = 0

    def kept() -> Iterator[Row]:
        nonlocal read
        for number, row in tqdm(read_rows(path), desc=tally.name, unit="row", mininterval=2, disable=None):
            read += 1
            reason = _reason(row, f"{path}:{number}", source, config=config, tally=tally, benchmarks=benchmarks)
            if reason is None:
                reason = duplicates.check(check_row(row, where=f"{path}:{number}", source=tally.name))
            if reason is None:
                yield {**row, "source": row.get("source") or source_name(path)}
            else:
                tally.dropped[reason] += 1

    write_rows(output, kept())
    return SourceTally(tally.name, read, tally.dropped, tally.benchmarks)


def _reason(
    row: Row, where: str, source: DataSource, *, config: DataConfig, tally: SourceTally, benchmarks: Benchmarks
) -> str | None:
    """Say why a row goes, apart from being a repeat; None if it may stay."""
    try:
        sample = check_row(row, where=where, source=tally.name)
    except InputError:
        if config.bad_rows == "stop":
            raise
        return "bad row"
    if source.languages and sample.language not in source.languages:
        return "other language"
    if not (sample.prompt or sample.response or "").strip():
        return "empty"
    if config.unlabelled == "drop" and not _is_labelled(sample):
        return "unlabelled"
    overlap = benchmarks.overlap(row)
    if overlap is None:
        return None
    tally.benchmarks[overlap.benchmark] += 1
    return f"in a benchmark: {overlap.reason}"


def _is_labelled(sample: Sample) -> bool:
    return sample.prompt_label is not None or (sample.response_label is not None and bool(sample.response))


def _key(config: DataConfig, paths: Sequence[Path]) -> str:
    """Name the parts' folder after everything they depend on, so that old parts are never taken for new ones."""
    settings = config.model_dump(mode="json", include={"near_duplicates", "unlabelled", "bad_rows"})
    sources = [source.model_dump(mode="json", exclude={"max_rows"}) for source in config.sources]
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return f"{fingerprint(json.dumps([settings, sources, config.benchmarks, files])):016x}"


def _read_tally(path: Path) -> SourceTally:
    found = json.loads(path.read_text(encoding="utf-8"))
    return SourceTally(found["name"], found["read"], Counter(found["dropped"]), Counter(found["benchmarks"]))


def _write_tally(path: Path, tally: SourceTally) -> None:
    with replacing(path) as file:
        json.dump(
            {"name": tally.name, "read": tally.read, "dropped": tally.dropped, "benchmarks": tally.benchmarks}, file
        )
