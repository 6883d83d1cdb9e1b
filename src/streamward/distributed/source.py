"""Files of rows, cut into shards that can be read by themselves."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from streamward.errors import ConfigError, InputError
from streamward.moderation.rows import ITEM_KEYS, InputRow, read_row, read_values
from streamward.text_files import HEAD_BYTES, find_encoding, raw_lines, read_line

_LABEL_KEYS = ("id",)
_MAX_SHARD_BYTES = 2**26


class Shard(NamedTuple):
    """Successive rows of a file.

    Attributes:
        first_row: Rows of the file before it, blank lines among them.
        num_rows: Its own.
        place: Where it begins: the byte of a JSONL file, the row group of a Parquet file.
        skip: Rows of the row group before it.
    """

    first_row: int
    num_rows: int
    place: int
    skip: int = 0


class Plan(NamedTuple):
    """A whole file.

    Attributes:
        shards: In the file's order.
        digest: Digest of its content.
    """

    shards: Sequence[Shard]
    digest: str

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.num_rows for shard in self.shards)


class Source(Protocol):
    """A file of one format."""

    def plan(self, shard_rows: int) -> Plan:
        """Read through the file and cut it into shards of at most so many rows."""
        ...

    def read(self, shard: Shard) -> Iterator[InputRow]:
        """Read the rows of a shard."""
        ...


def open_source(path: Path) -> Source:
    """Return a file by the end of its name.

    Raises:
        InputError: It cannot be read, or is of another format.
        ConfigError: The extra `parquet` is not installed.
    """
    if path.suffix in (".jsonl", ".ndjson"):
        return JsonlSource(path)
    if path.suffix == ".parquet":
        return ParquetSource(path)
    raise InputError(f"{str(path)!r} must end with .jsonl or .parquet")


class JsonlSource:
    """One JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def plan(self, shard_rows: int) -> Plan:
        """Read through the file; a shard ends earlier where its lines are very long.

        Raises:
            InputError: The file cannot be read.
        """
        shards: list[Shard] = []
        digest = hashlib.blake2b(digest_size=16)
        first_row = place = num_rows = num_bytes = 0
        with _opened(self._path) as file:
            for line in raw_lines(file, _encoding(file)):
                digest.update(line)
                num_rows += 1
                num_bytes += len(line)
                if num_rows == shard_rows or num_bytes >= _MAX_SHARD_BYTES:
                    shards.append(Shard(first_row, num_rows, place))
                    first_row, place = first_row + num_rows, place + num_bytes
                    num_rows = num_bytes = 0
        if num_rows:
            shards.append(Shard(first_row, num_rows, place))
        return Plan(shards, digest.hexdigest())

    def read(self, shard: Shard) -> Iterator[InputRow]:
        """Read the lines of a shard that are not blank."""
        with _opened(self._path) as file:
            encoding = _encoding(file)
            file.seek(shard.place)
            lines = islice(raw_lines(file, encoding), shard.num_rows)
            for number, raw in enumerate(lines, start=shard.first_row + 1):
                line = read_line(raw, encoding, number=number)
                if not line.is_blank:
                    yield read_row(line)


class ParquetSource:
    """A Parquet file with columns like the keys of a JSONL row; `messages` is a list of structs, or JSON."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            InputError: It cannot be read.
            ConfigError: The extra `parquet` is not installed.
        """
        try:
            import pyarrow.parquet
        except ModuleNotFoundError as error:
            raise ConfigError("reading Parquet needs pyarrow; run: pip install 'streamward[parquet]'") from error
        self._path = path
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (OSError, ValueError) as error:  # ValueError: pyarrow's own errors
            raise InputError(f"{str(path)!r} cannot be read, or is not a Parquet file") from error
        self._columns = [name for name in self._file.schema_arrow.names if name in (*_LABEL_KEYS, *ITEM_KEYS)]
        if not set(self._columns) & set(ITEM_KEYS):
            raise InputError(f"{str(path)!r} has none of the columns {', '.join(ITEM_KEYS)}")

    def plan(self, shard_rows: int) -> Plan:
        """Cut every row group by itself."""
        shards: list[Shard] = []
        first_row = 0
        for group in range(self._file.metadata.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            for skip in range(0, rows, shard_rows):
                shards.append(Shard(first_row + skip, min(shard_rows, rows - skip), group, skip))
            first_row += rows
        with _opened(self._path) as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        return Plan(shards, digest.hexdigest())

    def read(self, shard: Shard) -> Iterator[InputRow]:
        """Read the rows of a shard; those before it in its row group are read and left out.

        Raises:
            InputError: The row group is damaged.
        """
        try:
            batches = self._file.iter_batches(1024, row_groups=[shard.place], columns=self._columns)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(islice(rows, shard.skip, shard.skip + shard.num_rows), shard.first_row + 1):
                yield read_values(_plain(row), number)
        except (OSError, ValueError) as error:
            raise InputError(f"{str(self._path)!r}: row group {shard.place} cannot be read") from error


def _plain(row: dict[str, Any]) -> dict[str, Any]:  # Any: whatever the columns hold
    """Return a row as JSON would have it: without the nulls that structs have, and with JSON in a string read."""
    messages = row.get("messages")
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError):
            return row  # the moderator's error says what is wrong with it
    elif isinstance(messages, list):
        messages = [
            {name: value for name, value in turn.items() if value is not None} if isinstance(turn, dict) else turn
            for turn in messages
        ]
    return {**row, "messages": messages}


def _encoding(file: BufferedReader) -> str:
    encoding = find_encoding(file.read(HEAD_BYTES))
    file.seek(0)
    return encoding


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise InputError(f"{str(path)!r} cannot be read") from error
