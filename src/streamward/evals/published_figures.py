"""Figures that others published, to stand beside ours; the facts are in `published.toml`."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from streamward.settings import Settings


class PublishedGuard(Settings):
    """One row of the published tables."""

    name: str
    mode: Literal["strict", "loose"] | None = None
    f1: Mapping[str, float]
    """Times 100, by column."""

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.name if self.mode is None else f"{self.name}, {self.mode}"


class PublishedFigures(Settings):
    """All rows and where they come from."""

    source: str
    guard: tuple[PublishedGuard, ...]


@cache
def published_figures() -> PublishedFigures:
    """Return what is known."""
    text = files("streamward.evals").joinpath("published.toml").read_text(encoding="utf-8")
    return PublishedFigures.parse(tomllib.loads(text), source="published.toml")
