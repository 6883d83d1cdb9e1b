"""Settings of one labelling run: one TOML file."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from streamward.settings import Settings


class JudgeConfig(Settings):
    """One guard that votes."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names its votes, in the rows and in the report."""
    guard: str = Field(min_length=1)
    """As `streamward moderate --guard`: an embedded guard, a folder, a hub id, or `http://host/v1#model`."""
    policy: str = "strict"
    """A level of a streaming guard holds for as many tokens as this policy asks."""


class LabelConfig(Settings):
    """`streamward train label`: several guards judge every row, and the majority labels it."""

    input: Path
    """`.jsonl` or `.jsonl.gz`."""
    output: Path
    """The rows with labels; votes are kept in a folder and the report in files of the same stem."""
    judges: tuple[JudgeConfig, ...] = Field(min_length=1)
    fill: Literal["missing", "all"] = "missing"
    """`missing` gives only the labels that a row lacks, `all` gives all of them anew; then the old ones stay in
    `native.given_labels`."""
    ties: Literal["unlabelled", "severe", "controversial"] = "unlabelled"
    """Label if no level has more votes than every other: no label, the most severe of them, or Controversial."""
    min_votes: int | None = Field(default=None, gt=0)
    """Judges that must have answered, else there is no label; more than half of them by default."""
    batch_rows: int = Field(default=32, gt=0)
    """Rows judged together; after each batch its votes are safe on disk."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len({judge.name for judge in self.judges}) < len(self.judges):
            raise ValueError("every judge needs a name of its own")
        if self.min_votes is not None and self.min_votes > len(self.judges):
            raise ValueError("min_votes is more than there are judges")
        return self
