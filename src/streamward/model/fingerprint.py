"""A fingerprint that tells a guard's weights from others without reading all of them."""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from streamward.errors import CheckpointError
from streamward.reasons import reason_of

_BLOCK = 4096
_NUM_BLOCKS = 256
_CACHE_SUFFIX = re.compile(r"(-int8)?-[0-9a-f]{12}$")  # of folders in the cache


@dataclass(frozen=True, slots=True)
class GuardIdentity:
    """The identity of a guard.

    Attributes:
        name: Name of the guard, as given to `streamward.load` for embedded ones; else of its folder.
        fingerprint: Fingerprint of its weights as they are served; changes with training and with rounding.
    """

    name: str
    fingerprint: str


def identity_of(folder: Path) -> GuardIdentity:
    """Return the identity of a checkpoint's folder.

    The fingerprint is a SHA-256 over the size of every file of weights, its first megabyte (where safetensors keep
    names and shapes) and 256 blocks of 4 KiB spread over it: milliseconds at any size.

    Raises:
        CheckpointError: A file cannot be read, or there are no weights.
    """
    try:
        stamps = tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _files(folder))
        return GuardIdentity(_CACHE_SUFFIX.sub("", folder.name), _fingerprint(folder, stamps))
    except OSError as error:
        raise CheckpointError(f"the weights in {folder} cannot be read: {reason_of(error)}") from error


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise CheckpointError(f"{folder} contains no weights")
    return found


@lru_cache(maxsize=16)
def _fingerprint(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, size, _ in stamps:
        digest.update(f"{size}\n".encode())
        with (folder / name).open("rb") as file:
            digest.update(file.read(1 << 20))
            for index in range(_NUM_BLOCKS):
                file.seek(index * max(0, size - _BLOCK) // (_NUM_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]
