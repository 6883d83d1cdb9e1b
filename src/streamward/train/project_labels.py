"""`streamward train project-labels`: carries labels of one language over to the translations of the rows."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamward.data.labels import Labels, read_labels
from streamward.data.rows import Row, read_rows, write_rows
from streamward.errors import ConfigError
from streamward.train.config import TomlSettings

logger = logging.getLogger(__name__)


class ProjectLabelsConfig(TomlSettings):
    """Settings of one projection. Files are found from the working directory."""

    input: Path
    """Parallel rows: in each part of the set, every language has the same texts in the same order."""
    labels: Path
    """Labels of the rows of one language, by row id."""
    language: str = "en"
    """Language of the labelled rows."""
    part: str
    """Field of `native` that names the part of the set, e.g. `scene`."""
    max_gap: int = 2
    """A part with more rows more or fewer than in the labelled language is left out."""
    output: Path


def run(config_path: Path) -> Path:
    """Project the labels of a run.

    Returns:
        The file of labels, of all languages.

    Raises:
        ConfigError: The settings are wrong, or no row of the language is labelled.
        InputError: A file cannot be read.
    """
    config = ProjectLabelsConfig.read(config_path)
    rows = [row for _, row in read_rows(config.input)]
    projected = project(
        rows, read_labels(config.labels), language=config.language, part=config.part, max_gap=config.max_gap
    )
    if not projected:
        raise ConfigError(f"{config.input} has no row of the language {config.language!r} with a label")
    write_rows(config.output, [{"id": row_id, **label} for row_id, label in projected.items()])
    languages = Counter(str(row.get("lang")) for row in rows if str(row.get("id")) in projected)
    logger.info("labels: %s", ", ".join(f"{name} {number}" for name, number in languages.most_common()))
    return config.output


def project(rows: Sequence[Row], labels: Labels, *, language: str, part: str, max_gap: int = 2) -> Labels:
    """Label the translations of labelled rows.

    Rows of one part are paired by their order. Where a language lacks some, nobody knows which, and a row takes a
    label only if all labelled rows it may translate have the same.

    Args:
        rows: Parallel rows, in the order of the set.
        labels: Labels of the rows in `language`, by row id.
        language: Language of the labelled rows.
        part: Field of `native` that names the part of the set.
        max_gap: Largest difference between the numbers of rows of two languages in a part.

    Returns:
        Labels by row id, those given among them.
    """
    parts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        native: Mapping[str, object] = row.get("native") or {}
        parts[str(row.get("lang")), str(native.get(part))].append(str(row.get("id")))
    found: dict[str, Row] = {}
    for (_, name), row_ids in parts.items():
        source_ids = parts.get((language, name), [])
        gap = abs(len(source_ids) - len(row_ids))
        if gap > max_gap:
            continue
        for index, row_id in enumerate(row_ids):
            reach = slice(max(0, index - gap), index + gap + 1)
            candidates = [labels.get(source_id) for source_id in source_ids[reach]]
            if candidates and candidates[0] is not None and all(label == candidates[0] for label in candidates):
                found[row_id] = candidates[0]
    return found
