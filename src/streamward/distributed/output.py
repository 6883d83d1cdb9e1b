"""Finished shards as one file, in the order of the input."""

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamward.distributed.parts import PartCounts, Parts
from streamward.distributed.source import Shard
from streamward.errors import ConfigError, InputError
from streamward.schema import RiskLevel


def check_output(path: Path) -> None:
    """Check that a file of this name can be written.

    Raises:
        InputError: The name says no format, or its folder is not there.
        ConfigError: The extra `parquet` is not installed.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        raise InputError(f"{str(path)!r} must end with .jsonl or .parquet")
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} does not exist")
    if path.suffix == ".parquet":
        _schema(has_verdicts=False)


def write_output(path: Path, parts: Parts, shards: Iterable[Shard], *, has_verdicts: bool) -> PartCounts:
    """Write the rows of all shards; the file is whole or not there. Returns what is in it."""
    with _replacing(path) as temporary:
        if path.suffix == ".parquet":
            return _write_parquet(temporary, parts, shards, has_verdicts=has_verdicts)
        return _write_jsonl(temporary, parts, shards)


def _write_jsonl(path: Path, parts: Parts, shards: Iterable[Shard]) -> PartCounts:
    total = PartCounts()
    with path.open("wb") as file:
        for shard in shards:
            with parts.opened(shard) as (counts, lines):
                shutil.copyfileobj(lines, file)
            total = total.plus(counts)
    return total


def _write_parquet(path: Path, parts: Parts, shards: Iterable[Shard], *, has_verdicts: bool) -> PartCounts:
    import pyarrow
    import pyarrow.parquet

    schema, total = _schema(has_verdicts=has_verdicts), PartCounts()
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for shard in shards:
            with parts.opened(shard) as (counts, lines):
                rows = [_with_text_id(json.loads(line)) for line in lines]
            if rows:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            total = total.plus(counts)
    return total


def _with_text_id(row: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    return {**row, "id": str(row["id"])} if "id" in row else row  # a column has one type


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _schema(*, has_verdicts: bool) -> Any:  # Any: pyarrow has no types
    """The keys of `streamward.moderation.rows.answer_json` as columns."""
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise ConfigError("writing Parquet needs pyarrow; run: pip install 'streamward[parquet]'") from error
    whole, text = pa.int64(), pa.string()
    probabilities = pa.struct([(level.value, pa.float64()) for level in RiskLevel])
    thresholds = pa.struct([(level.value, pa.float64()) for level in (RiskLevel.CONTROVERSIAL, RiskLevel.UNSAFE)])
    side = [
        ("risk_level", text),
        ("category", text),
        ("probabilities", probabilities),
        ("thresholds", thresholds),
        ("first_flagged_char", whole),
        ("first_flagged_token", whole),
        ("refusal", pa.bool_()),
        ("windows", whole),
        ("num_tokens", whole),
        ("tokens", whole),
    ]
    verdict = [("position", whole), ("risk_level", text), ("category", text), ("probabilities", probabilities)]
    verdicts = [("verdicts", pa.list_(pa.struct([*verdict, ("span", pa.list_(whole))])))] if has_verdicts else []
    names = ("action", "side", "risk_level", "category")
    decision = [*((name, text) for name in names), ("position", whole), ("message", text), ("error", text)]
    return pa.schema(
        [
            ("id", text),
            ("line", whole),
            *side,
            ("decision", pa.struct(decision)),
            *((name, pa.struct([*side, *verdicts])) for name in ("prompt", "response")),
            ("error", pa.struct([("code", text), ("message", text)])),
        ]
    )
