"""The layer table: who may import whom. Reads every import in the package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
PACKAGE = "streamward"
ROOT = "__init__"  # the public names

# Lowest first. A part imports parts of earlier rows, and modules of its own.
LAYERS = (
    {"closing", "errors", "reasons", "schema", "suggestions"},
    {"kernels", "text_files", "validation"},
    {"settings", "api_keys"},
    {"detectors", "ladder", "rules"},
    {"policy", "tokenizer", "model", "observability", "guard_call"},
    {"decisions"},
    {"engine", "data", "generative", "bundled", "text_stream", "client", "text_release"},
    {"policy_guards"},
    {"moderation", "hub"},
    {"intervene", "vllm"},
    {"loading"},
    {ROOT},
    {"gateway", "evals", "bench", "assistant", "distributed", "integrations"},
    {"server", "train", "teach"},
    {"cli"},
    {"__main__"},
)
LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}
BANNED = {"engine": {"asyncio", f"{PACKAGE}.tokenizer", f"{PACKAGE}.text_stream"}}  # no text and no event loop there
FOUNDATION = {"errors", "reasons", "schema", "settings", "suggestions", "text_files", "validation"}
ALLOWED_IN_FOUNDATION = {"pydantic", PACKAGE} | sys.stdlib_module_names
TORCH_FREE = FOUNDATION | {"ladder", "policy", "decisions", "client", "text_release", "kernels"}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((SOURCE / PACKAGE).rglob("*.py"))}


def part_of(module: str) -> str:
    """Return the row entry a module belongs to: `streamward.model.heads` is part of `model`."""
    _, _, inner = module.partition(".")
    return inner.split(".")[0] or ROOT


def imports_in(source: str) -> Iterator[str]:
    """Name every module imported anywhere in a file, also within functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES else base


def violations(module: str, source: str) -> list[str]:
    """Say what one file imports against the table."""
    part, found = part_of(module), []
    if part not in LEVELS:
        return [f"{module}: {part!r} is in no layer"]
    for imported in imports_in(source):
        top = imported.split(".")[0]
        target = part_of(imported)
        if imported.startswith("."):
            found.append(f"{module} imports {imported}; write the full name")
        elif imported in BANNED.get(part, set()):
            found.append(f"{module} must not import {imported}")
        elif part in FOUNDATION and top not in ALLOWED_IN_FOUNDATION:
            found.append(f"{module} must not import {imported}: only the standard library and pydantic")
        elif top == PACKAGE and target != part and LEVELS.get(target, len(LAYERS)) >= LEVELS[part]:
            found.append(f"{module} must not import {imported}: it is not of a lower level")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_lower_levels(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("streamward.schema", "import torch"),
        ("streamward.policy", "from streamward.moderation import Moderator"),
        ("streamward.policy", "from streamward import moderation"),
        ("streamward.policy", "from streamward import load"),
        ("streamward.policy", "def late():\n    import streamward.tokenizer"),
        ("streamward.engine.engine", "from streamward.tokenizer import GuardTokenizer"),
        ("streamward.engine.engine", "import asyncio"),
        ("streamward.moderation", "from .schema import Verdict"),
        ("streamward.helpers", "import os"),
        ("streamward.cli", "import streamward.unheard_of"),
    ],
)
def test_an_import_against_the_table_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module: {name for name in imports_in(path.read_text(encoding="utf-8")) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circular import: {' -> '.join(error.args[1])}")


def is_torch_free(module: str) -> bool:
    return part_of(module) in TORCH_FREE or (module.endswith(".config") and module.count(".") == 2)


def test_policies_and_configs_import_without_torch() -> None:
    names = [module for module in MODULES if is_torch_free(module)]
    program = "import importlib, sys; sys.modules['torch'] = None; [importlib.import_module(n) for n in sys.argv[1:]]"
    done = subprocess.run(
        [sys.executable, "-c", program, *names], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
