"""The pages of the documentation, and the code in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = re.compile(r"([a-z]+ [^|]*\| )?(streamward|make|curl)( |$)")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Block(NamedTuple):
    """A block of code: its language ("" for an indented one), its text, and where it stands."""

    language: str
    text: str
    page: Path
    line: int

    @property
    def name(self) -> str:
        """Page and line, as editors open them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """All blocks of these languages, in the order of the pages."""
    return [block for page in PAGES for block in _blocks_of(page) if block.language in languages]


def commands(block: Block) -> Iterator[str]:
    """The commands that a reader would type: lines behind `$ `, or lines of a block that begin with a program."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        if not (line.startswith("$ ") if block.language == "console" else PROGRAMS.match(line)):
            continue
        yield line.removeprefix("$ ").strip()


def words(command: str) -> Iterator[list[str]]:
    """The words of each program in a command line, without redirections."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    program: list[str] = []
    redirected = False
    for word in lexer:
        if set(word) <= set("|&;"):
            yield program
            program = []
        elif set(word) <= set("<>"):
            redirected = True
        elif redirected:
            redirected = False
        else:
            program.append(word)
    yield program


def _blocks_of(page: Path) -> Iterator[Block]:
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block") and token.map:
            yield Block(token.info.strip(), token.content, page, token.map[0] + 1)
