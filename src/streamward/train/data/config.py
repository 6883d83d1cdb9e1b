"""Settings of one data run: one TOML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from streamward.data.balance import BalanceRule
from streamward.settings import Settings


class DataSource(Settings):
    """One file of rows."""

    file: str
    """Below `data_root`, or below the working directory if it begins with `./`; `*` takes every match."""
    languages: tuple[str, ...] = ()
    """Only rows of these languages; all by default."""
    max_rows: int | None = Field(default=None, gt=0)
    """Rows kept of it, chosen by seed, before `balance`."""


class DataConfig(Settings):
    """`streamward train data`: from sources to splits without repeats, contradictions and benchmark rows."""

    data_root: Path = Path()
    output: Path
    """Folder: `train.jsonl.gz`, one file a split, `report.json` and `report.txt`."""
    sources: tuple[DataSource, ...] = Field(min_length=1)
    """The files to read. A repeated row keeps the labels of its first source: put the best labels first."""
    benchmarks: tuple[str, ...] = ()
    """Files that nothing may be shared with, as in `DataSource.file`."""
    balance: tuple[BalanceRule, ...] = ()
    """Applied one after the other."""
    splits: Mapping[str, float] = {"validation": 0.04}
    """Share of the groups held out, by name; the rest is `train`."""
    near_duplicates: bool = True
    """If true, rows that are nearly the same are dropped too."""
    unlabelled: Literal["drop", "keep"] = "drop"
    """Rows without any label; keep them if `streamward train label` comes next."""
    bad_rows: Literal["stop", "drop"] = "stop"
    """Rows that break the schema."""
    seed: int = 0

    @model_validator(mode="after")
    def _splits_leave_a_rest(self) -> Self:
        shares = self.splits.values()
        if any(not 0 < share < 1 for share in shares) or sum(shares) >= 1:
            raise ValueError("splits must be shares between 0 and 1 that leave something for train")
        bad = [name for name in self.splits if not name.isidentifier() or name in ("train", "report")]
        if bad:
            raise ValueError("names of splits must be words other than train and report")
        return self
