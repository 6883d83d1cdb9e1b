"""The sets that are part of the package: written for this project, and held out from all training and calibration."""

from pathlib import Path

from streamward.evals.registry import entry_of
from streamward.evals.sets import EvalSet, load_set

FOLDER = Path(__file__).parent / "data"


def packaged_set(name: str) -> list[EvalSet]:
    """Return one set, `everyday` or `cues`: one for each side that is judged."""
    return load_set(FOLDER, entry_of(name))
