"""One name for one thing: a search for a class ends at its place, and files stay readable."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "streamward"
MODULES = sorted(PACKAGE.rglob("*.py"))


def classes() -> dict[str, list[str]]:
    """Name of every class, nested ones too, to the modules that define one."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(path.relative_to(PACKAGE).as_posix())
    return found


def test_a_class_name_is_unique_in_the_package() -> None:
    repeated = {name: paths for name, paths in classes().items() if len(paths) > 1}
    assert not repeated


def test_no_module_is_longer_than_400_lines_and_half_of_them_are_under_120() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    too_long = {name: length for name, length in lengths.items() if length > 400}
    assert not too_long
    assert median(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES) < 120


FRAGMENT = re.compile(r"(Of|What|Whether|Which|How|Where|Who|Whose|When|Why|That|Those)\b")
ARGUMENT_OF_NOTHING = re.compile(r"^\s+\w+: Of ", re.MULTILINE)


def docstrings(source: str) -> Iterator[str]:
    """Every docstring of a module, those of attributes too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in node.body:
                match statement:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        yield text


def fragments(source: str) -> list[str]:
    """First lines, and lines on arguments, that are parts of a sentence: a reader has to guess the rest."""
    found = [text.partition("\n")[0] for text in docstrings(source) if FRAGMENT.match(text)]
    return found + [line.strip() for text in docstrings(source) for line in ARGUMENT_OF_NOTHING.findall(text)]


def test_a_docstring_begins_with_what_a_thing_is_or_does() -> None:
    found = {path.relative_to(PACKAGE).as_posix(): fragments(path.read_text(encoding="utf-8")) for path in MODULES}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        '"""What a guard says."""',
        'class Row:\n    """One row."""\n\n    text: str\n    """Of the response."""',
        'def is_open():\n    """Whether it is open."""',
        'def read(path):\n    """Read a file.\n\n    Args:\n        path: Of the file.\n    """',
    ],
)
def test_a_docstring_that_is_a_fragment_is_found(source: str) -> None:
    assert len(fragments(source)) == 1
