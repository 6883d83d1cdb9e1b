"""Records out of files: JSON lines, JSON, CSV, TSV and Parquet, plain or gzipped."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamward.errors import ConfigError, InputError
from streamward.reasons import reason_of
from streamward.text_files import decode_structured

Record = dict[str, Any]  # Any: values of the file
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
_MAX_FIELD_CHARS = min(sys.maxsize, 2**31 - 1)  # most characters of a CSV cell; Python's own limit is 128 KiB


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of one file, by its suffix.

    Raises:
        InputError: The file cannot be read, is empty, or is not what its name says. Names the file.
        ConfigError: It is Parquet and pyarrow is not installed.
    """
    if path.suffix == ".parquet":
        records = _parquet(path)
    else:
        text = _read_text(path)
        kind = path.name.removesuffix(".gz").rpartition(".")[2]
        if kind == "jsonl":
            records = _json_lines(text, path)
        elif kind == "json":
            records = _json_list(text, path)
        elif kind in ("csv", "tsv"):
            records = _csv(text, path, delimiter="\t" if kind == "tsv" else ",")
        else:
            raise InputError(f"{path} is of no known kind; known are {', '.join(SUFFIXES)}")
    is_empty = True
    for record in records:
        is_empty = False
        yield record
    if is_empty:
        raise InputError(f"{path} contains no rows")


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return decode_structured(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} cannot be read: it is damaged, or not gzip") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}") from error
    except InputError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _json_lines(text: str, path: Path) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                record = json.loads(line.removeprefix("\ufeff"))  # joined files have byte order marks within them
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, line {number}: not JSON from character {error.pos + 1} on") from None
            yield _object(record, f"{path}, line {number}")


def _json_list(text: str, path: Path) -> Iterator[Record]:
    try:
        value = json.loads(text)
    except ValueError:
        yield from _json_lines(text, path)  # RTP-LX and others call JSON lines .json
        return
    if isinstance(value, dict):  # one list under a name, or columns
        lists = [each for each in value.values() if isinstance(each, list)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list):
        raise InputError(f"{path} must hold a list of objects")
    for number, record in enumerate(value, start=1):
        yield _object(record, f"{path}, record {number}")


def _object(value: object, where: str) -> Record:
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be a JSON object")
    return value


def _csv(text: str, path: Path, *, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(_MAX_FIELD_CHARS)
    try:
        for number, record in enumerate(csv.DictReader(io.StringIO(text), delimiter=delimiter), start=1):
            if None in record or None in record.values():
                raise InputError(f"{path}, row {number}: has another number of fields than the header")
            yield record
    except csv.Error as error:
        raise InputError(f"{path}: {error}") from error


def _parquet(path: Path) -> Iterator[Record]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path} is Parquet, which needs pyarrow; run: pip install 'streamward[hub]'") from error
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}") from error
