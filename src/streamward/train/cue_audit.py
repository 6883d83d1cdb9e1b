"""`streamward train audit-cues`: which surface cues of a run's rows predict their labels."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from streamward.data.cues import Cue, CueCount, CueKind, CueTarget, count_cues, excessive
from streamward.data.jsonl import Sample
from streamward.errors import ConfigError
from streamward.train.config import CueLimits, RunConfig
from streamward.train.mixture import draw
from streamward.train.toml_file import read_table

REPORT_FILE = "cues.json"
_SHOWN_PER_KIND = 8


def run(config_path: Path) -> Path:
    """Count the cues of the rows that a Stream or Gen guard would be trained on; print a table.

    Args:
        config_path: TOML of `train stream` or `train gen`.

    Returns:
        The report: `cues.json` in the run's folder.

    Raises:
        ConfigError: The settings are wrong, or a cue exceeds the limits.
        InputError: A data file cannot be read.
    """
    table = read_table(config_path)
    shared = {key: value for key, value in table.items() if key in RunConfig.model_fields}
    config = RunConfig.parse(shared, source=str(config_path))
    counts = count_cues((row.sample for row in draw(config).train), min_rows=config.cues.min_rows)
    path = config.output_root / config.name / REPORT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps([_as_json(each) for each in counts], indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(cue_table(counts))
    check_cues(counts, config.cues)
    return path


def check_mixture(samples: Iterable[Sample], limits: CueLimits) -> None:
    """Refuse to train on rows whose surface cues predict harm.

    Raises:
        ConfigError: A cue exceeds the limits; names the worst ones.
    """
    if limits.refuse:
        check_cues(count_cues(samples, min_rows=limits.min_rows), limits)


def check_cues(counts: Sequence[CueCount], limits: CueLimits) -> None:
    """Raise a ConfigError that names the worst cues if one exceeds the limits and these are to be kept."""
    found = excessive(
        counts, max_label_precision=limits.max_label_precision, max_onset_precision=limits.max_onset_precision
    )
    if found and limits.refuse:
        shown = "; ".join(_described(each) for each in found[:5])
        raise ConfigError(
            f"{len(found)} surface cues predict harm by themselves: {shown}. Add harmless rows that carry them, or set"
            " cues.refuse to false"
        )


def cue_table(counts: Sequence[CueCount]) -> str:
    """Return the surest values of every cue as a table in plain text."""
    lines = [f"{'target':30}{'cue':20}{'value':42}{'rows':>8}{'harmful':>9}{'share':>8}{'at least':>10}"]
    for target in CueTarget:
        for kind in CueKind:
            same = [each for each in counts if each.cue.target is target and each.cue.kind is kind]
            lines += [_line(each) for each in same[:_SHOWN_PER_KIND]]
    return "\n".join(lines)


def _line(each: CueCount) -> str:
    cue = each.cue
    return (
        f"{cue.target:30}{cue.kind:20}{cue.value[:40]:42}{each.num_rows:8,}{each.num_unsafe:9,}"
        f"{each.precision:8.2f}{each.lower_bound:10.2f}"
    )


def _described(each: CueCount) -> str:
    cue: Cue = each.cue
    return f"{cue.kind} {cue.value!r} ({cue.target}: {each.num_unsafe} of {each.num_rows})"


def _as_json(each: CueCount) -> dict[str, object]:
    return {
        **each.cue._asdict(),
        "rows": each.num_rows,
        "harmful": each.num_unsafe,
        "precision": round(each.precision, 4),
        "lower_bound": round(each.lower_bound, 4),
    }
