"""Arrays that take long to compute, kept in a file of the cache."""

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], *, what: str) -> None:  # Any: of any type
    """Write arrays in one go; a folder that cannot be written costs the time to compute them again.

    Args:
        path: File for `numpy.load`.
        arrays: By name.
        what: Their name in the log.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, staged = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(staged, path)
    except OSError as error:
        logger.warning("%s not cached", what, extra={"reason": error.strerror})
