"""The public names: complete, importable, quick to import, and without torch."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import streamward
from streamward import errors

SOURCE = Path(streamward.__file__)


def type_checking_names() -> set[str]:
    """Names that type checkers see."""
    (block,) = [node for node in ast.parse(SOURCE.read_text("utf-8")).body if isinstance(node, ast.If)]
    found = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    return found | {
        node.target.id for node in block.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def run(program: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent.parent)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", streamward.__all__)
def test_a_public_name_can_be_imported(name):
    assert getattr(streamward, name) is not None


def test_type_checkers_see_the_names_that_can_be_imported():
    assert type_checking_names() == set(streamward.__all__)
    assert dir(streamward) == sorted(streamward.__all__)


def test_every_error_is_public():
    found = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.StreamwardError)
    }
    assert found <= set(streamward.__all__)
    assert issubclass(streamward.BlockedError, streamward.StreamwardError)


def test_every_public_class_and_function_explains_itself():
    for name in streamward.__all__:
        value = getattr(streamward, name)
        assert name == "__version__" or (value.__doc__ or "").strip()


def test_what_is_promised_is_there():
    promised = {"load", "connect", "GuardStream", "AsyncGuardStream", "EngineConfig", "Policy", "Moderator", "Client"}
    assert promised <= set(streamward.__all__)
    assert streamward.__version__[0].isdigit()


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="unheard_of"):
        _ = streamward.unheard_of


def test_importing_streamward_imports_next_to_nothing():
    new = run("import sys; before = set(sys.modules); import streamward; print(*sorted(set(sys.modules) - before))")
    assert {name.partition(".")[0] for name in new.split()} <= {"streamward"} | sys.stdlib_module_names


@pytest.mark.parametrize("name", ["connect", "Policy", "EngineConfig", "Result", "StreamwardError", "release"])
def test_what_needs_no_model_loads_no_torch(name):
    run(f"import sys; sys.modules['torch'] = None; import streamward; streamward.{name}")


EXTRAS = ("alembic", "cryptography", "fastapi", "prometheus_client", "sqlalchemy", "uvicorn", "transformers", "sklearn")
"""Modules of the extras."""


def test_everything_public_needs_no_extra():
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in EXTRAS)
    run(f"import sys; {blocked}import streamward; [getattr(streamward, name) for name in streamward.__all__]")
