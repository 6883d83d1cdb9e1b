"""Finished parts of a job: a folder beside its output with one file per shard, and how they are joined at the end."""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from streamward.distributed.source import Shard
from streamward.errors import InputError

_JOB_FILE = "job.json"
_LOCK_FILE = "lock"
_PART_SUFFIX = ".part"


class PartCounts(NamedTuple):
    """Rows by what came of them.

    Attributes:
        rows: That were answered; blank lines are not.
        blocked: That the policy blocks or replaces.
        bad: That could not be judged for what they are.
        failed: That the guard could not judge.
    """

    rows: int = 0
    blocked: int = 0
    bad: int = 0
    failed: int = 0

    def plus(self, other: "PartCounts") -> "PartCounts":
        """Add two counts."""
        return PartCounts(*(one + more for one, more in zip(self, other, strict=True)))


class Parts:
    """Finished shards, each whole or not there at all. Every machine that works on a job sees the same folder."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is made."""
        self._folder = folder

    @contextmanager
    def claimed(self, identity: Mapping[str, Any]) -> Iterator[None]:  # Any: JSON values
        """Take the folder for one run of a job, made if need be; a run that was killed leaves it free.

        Args:
            identity: Identity of the job: what must be equal for finished shards to count.

        Raises:
            InputError: Another run is at work, or the folder holds shards of another job.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / _LOCK_FILE).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"another run is at work in {str(self._folder)!r}") from error
            self._check(identity)
            for left in self._folder.glob(".*"):  # files of workers that were killed
                left.unlink(missing_ok=True)
            yield

    def finished(self, shards: Iterable[Shard]) -> set[Shard]:
        """Return those that are finished."""
        names = {entry.name for entry in os.scandir(self._folder)}
        return {shard for shard in shards if _name(shard) in names}

    def is_finished(self, shard: Shard) -> bool:
        """Return whether a shard is finished."""
        return (self._folder / _name(shard)).exists()

    def begin(self, shard: Shard) -> int:
        """Note that a shard is begun; return how often it was since the folder was claimed."""
        with (self._folder / f".{_name(shard)}.tries").open("ab") as file:
            file.write(b".")
            return file.tell()

    def write(self, shard: Shard, lines: Sequence[str], counts: PartCounts) -> None:
        """Finish a shard. It is on the disk when this returns."""
        temporary = self._folder / f".{uuid.uuid4().hex}"
        with temporary.open("w", encoding="ascii") as file:
            file.write(json.dumps(counts._asdict()) + "\n")
            file.writelines(line + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / _name(shard))

    @contextmanager
    def opened(self, shard: Shard) -> Iterator[tuple[PartCounts, IO[bytes]]]:
        """Open a finished shard: its counts, and a file that is at its first line."""
        with (self._folder / _name(shard)).open("rb") as file:
            yield PartCounts(**json.loads(file.readline())), file

    def remove(self) -> None:
        """Remove the folder; not even a kill in the midst of it leaves something that looks like a job."""
        old = self._folder.with_name(f".{self._folder.name}.{uuid.uuid4().hex}")
        self._folder.rename(old)
        shutil.rmtree(old)

    def _check(self, identity: Mapping[str, Any]) -> None:
        path = self._folder / _JOB_FILE
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            temporary = self._folder / f".{uuid.uuid4().hex}"
            temporary.write_text(json.dumps(identity, indent=2), encoding="utf-8")
            temporary.replace(path)
            return
        except (OSError, ValueError) as error:
            raise InputError(f"{str(path)!r} cannot be read; remove the folder to begin again") from error
        different = [name for name in identity if before.get(name) != identity[name]]
        if different:
            raise InputError(
                f"{str(self._folder)!r} contains rows of a job with another {', '.join(different)};"
                " remove the folder to begin again, or write to another file"
            )


def _name(shard: Shard) -> str:
    return f"{shard.first_row:015d}-{shard.num_rows}{_PART_SUFFIX}"
