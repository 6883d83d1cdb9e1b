"""One page in two forms: Markdown for reading in a repository, HTML that needs nothing beside itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text; all columns but the first are set right where they look like figures."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    is_folded: bool = False
    """Closed at first in HTML."""

    def is_number(self, column: int) -> bool:
        """Return True if a column contains figures."""
        return column > 0 and all(row[column][:1] in "0123456789+-<" for row in self.rows)


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture, left out of Markdown."""

    title: str
    svg: str
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
    return "\n".join(_markdown_lines(page)).rstrip() + "\n"


def markdown_table(table: Table) -> str:
    """Return one table."""
    rule = ["---:" if table.is_number(column) else "---" for column in range(len(table.header))]
    return "\n".join(_row(cells) for cells in (table.header, rule, *table.rows))


def html(page: Page) -> str:
    """Return the page as one HTML document."""
    return _template().render(page=page, is_table=lambda part: isinstance(part, Table))


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
