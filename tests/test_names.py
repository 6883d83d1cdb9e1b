"""One name for one thing: a search for a class ends at its place, and files stay readable."""

import ast
from collections import defaultdict
from pathlib import Path
from statistics import median

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
