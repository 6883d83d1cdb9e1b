"""Rows as the JSON objects they are: read, checked and written without losing a field."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from streamward.errors import InputError
from streamward.reasons import reason_of
from streamward.text_files import Line, read_lines

Row = dict[str, Any]  # Any: JSON values


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Read the objects of `NAME.jsonl` or `NAME.jsonl.gz` with the numbers of their lines.

    Raises:
        InputError: The file cannot be read, or a line is not a JSON object; names the line.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in read_lines(file):
                yield line.number, _parse(line, where=f"{path}:{line.number}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} cannot be read: it is damaged, or not gzip") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}") from error


def _parse(line: Line, *, where: str) -> Row:
    if line.text is None:
        raise InputError(f"{where}: {line.problem}")
    try:
        row = json.loads(line.text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON from character {error.pos + 1} on") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or objects as deep
        raise InputError(f"{where}: not JSON that can be read: too long a number or too deep a nesting") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: must be a JSON object")
    return row


def encode_row(row: Row) -> str:
    """Return a row as one line; half characters, which UTF-8 lacks, become `?`."""
    line = json.dumps(row, ensure_ascii=False)
    return line.encode("utf-8", "replace").decode("utf-8") + "\n"


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write rows, compressed if the name ends in `.gz`; the file appears when it is complete.

    The same rows give the same bytes.

    Returns:
        How many.
    """
    number = 0
    with replacing(path) as file:
        for row in rows:
            file.write(encode_row(row))
            number += 1
    return number


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Open a text file that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed:
                    yield from _text(packed)
            else:
                yield from _text(raw)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _text(raw: IO[bytes] | gzip.GzipFile) -> Iterator[IO[str]]:
    text = io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
    yield text
    text.flush()
    text.detach()
