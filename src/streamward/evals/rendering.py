"""One page in two forms: Markdown for reading in a repository, HTML that needs nothing beside itself."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2

from streamward.evals.fitness import MOST_TO_BLOCK, MOST_TO_BLOCK_WITH_APPEAL, tone
from streamward.evals.plots import Picture

_FALSE_POSITIVES = (
    "false positives",
    "False positives",
    "stopped falsely",
    "share flagged",
)
"""Columns and cards that hold shares of flagged harmless rows, in percent."""
_FIGURE = re.compile(r"(\d+(?:\.\d+)?)(?: \[[^,]+, (\d+(?:\.\d+)?)\])?")


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text; all columns but the first are set right where they look like figures."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    is_folded: bool = False
    """Closed at first in HTML."""

    @property
    def is_empty(self) -> bool:
        """True if no row says anything."""
        return all(cell in ("", "-") for row in self.rows for cell in row[1:])

    def tone(self, row: Sequence[str], column: int) -> str:
        """Return what a cell means, as a class of HTML: only shares of false positives have a meaning of their own."""
        return _tone(self.header[column], row[column])

    def is_number(self, column: int) -> bool:
        """Return True if a column contains figures."""
        return column > 0 and all(row[column][:1] in "0123456789+-<" for row in self.rows)


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture, left out of Markdown."""

    title: str
    picture: Picture
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One heading."""

    title: str
    text: str
    parts: Sequence[Table | Plot]


@dataclass(frozen=True, slots=True)
class Card:
    """One figure that a reader looks for first."""

    label: str
    value: str
    note: str

    @property
    def tone(self) -> str:
        """Meaning of the figure, as a class of HTML."""
        return _tone(self.label, self.value)


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    cards: Sequence[Card]
    sections: Sequence[Section]
    headlines: Sequence[str] = ()
    """Sentences that stand before everything else."""


def write_page(page: Page, folder: Path) -> None:
    """Write `report.md` and `report.html`."""
    (folder / "report.md").write_text(markdown(page), encoding="utf-8")
    (folder / "report.html").write_text(html(page), encoding="utf-8")


def markdown(page: Page) -> str:
    """Return the page without its plots."""
    return "\n".join(_markdown_lines(_without_empty(page))).rstrip() + "\n"


def markdown_table(table: Table) -> str:
    """Return one table."""
    rule = ["---:" if table.is_number(column) else "---" for column in range(len(table.header))]
    return "\n".join(_row(cells) for cells in (table.header, rule, *table.rows))


def html(page: Page) -> str:
    """Return the page as one HTML document."""
    limits = {"good": MOST_TO_BLOCK, "fair": MOST_TO_BLOCK_WITH_APPEAL}
    return _template().render(page=_without_empty(page), is_table=lambda part: isinstance(part, Table), limits=limits)


def _without_empty(page: Page) -> Page:
    """Leave out tables that say nothing, and sections of which nothing is left."""
    sections = []
    for section in page.sections:
        parts = [part for part in section.parts if not (isinstance(part, Table) and part.is_empty)]
        if parts:
            sections.append(replace(section, parts=parts))
    return replace(page, sections=sections)


def _tone(name: str, value: str) -> str:
    figure = _FIGURE.match(value)
    if figure is None or not name.startswith(_FALSE_POSITIVES):
        return ""
    rate, high = (float(each or figure[1]) / 100 for each in figure.groups())
    return tone(rate, high=high)


def _markdown_lines(page: Page) -> Iterator[str]:
    yield f"# {page.title}\n\n{page.subtitle}\n"
    for sentence in page.headlines:
        yield f"**{sentence}**\n"
    for card in page.cards:
        yield f"- **{card.label}**: {card.value} ({card.note})"
    for section in page.sections:
        tables = [part for part in section.parts if isinstance(part, Table)]
        if not tables:
            continue
        yield f"\n## {section.title}\n\n{section.text}\n"
        for table in tables:
            yield f"### {table.title}\n\n{markdown_table(table)}\n"
            if table.note:
                yield f"{table.note}\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


@cache
def _template() -> jinja2.Template:
    text = files("streamward.evals").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
