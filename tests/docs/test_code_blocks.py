"""The code in the documentation works: Python runs, settings are valid, commands exist with their options."""

import json
import re
import tomllib
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet

from streamward.assistant.app import create_app
from streamward.bundled.packages import ENTRY_POINT_GROUP
from streamward.cli.main import build_parser
from streamward.data.balance import BalanceRule
from streamward.errors import ConfigError
from streamward.policy import Policy
from streamward.server.config import ServeConfig
from streamward.train.synthesize.config import WriterConfig
from tests import loopback
from tests.assistant.assistants import tiny_assistant
from tests.docs.pages import ROOT, Block, blocks, commands, words
from tests.server.marked_guard import marked_guard
from tests.server.services import open_service, served

ADDRESS = "http://127.0.0.1:8000"
"""Of the service, in the pages."""
FRAMEWORKS = ("agents", "haystack", "langchain_core", "llama_index", "pydantic_ai")
"""They have an environment of their own."""


def named(found: list[Block]) -> list[ParameterSet]:
    return [pytest.param(block, id=block.name) for block in found]


@pytest.fixture
def address(tmp_path):
    with loopback.served(create_app(tiny_assistant())) as assistant:
        upstreams = {"assistant": {"base_url": f"{assistant}/v1"}}
        with (
            open_service(tmp_path, guard=marked_guard(), upstreams=upstreams) as service,
            served(service.app) as served_at,
        ):
            yield served_at


@pytest.mark.parametrize("block", named(blocks("python")))
def test_python_runs(block, address, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "qwen3guard" in block.text.lower() or "vllm" in block.text.lower():
        compile(block.text, block.name, "exec")  # needs weights or a server that tests do not have
        return
    for framework in FRAMEWORKS:
        if f"from {framework}" in block.text:
            compile(block.text, block.name, "exec")
            pytest.skip("tests/integrations/test_page.py runs it, beside the framework")
    exec(compile(block.text.replace(ADDRESS, address), block.name, "exec"), {"__name__": "documentation"})


def parse_serve_config(values: dict[str, Any]) -> None:
    ServeConfig.parse(values, source="documentation")


def parse_policy(values: dict[str, Any]) -> None:
    Policy.parse({"name": "documentation", **values}, source="documentation")


def parse_writer(values: dict[str, Any]) -> None:
    WriterConfig.parse(values["writer"], source="documentation")


def parse_balance(values: dict[str, Any]) -> None:
    for rule in values["balance"]:
        BalanceRule.parse(rule, source="documentation")


def parse_entry_points(values: dict[str, Any]) -> None:
    if set(values["project"]["entry-points"]) != {ENTRY_POINT_GROUP}:
        raise ConfigError(f"guards are found in the group {ENTRY_POINT_GROUP}")


@pytest.mark.parametrize("block", named(blocks("toml")))
def test_settings_are_valid(block):
    values = tomllib.loads(block.text)
    own = {"writer": parse_writer, "balance": parse_balance, "project": parse_entry_points}
    problems = []
    for parse in [own[key] for key in values if key in own] or [parse_serve_config, parse_policy]:
        try:
            parse(values)
            return
        except ConfigError as error:
            problems.append(str(error))
    pytest.fail("\n".join(problems))


def programs(name: str) -> list[ParameterSet]:
    found = []
    for block in blocks("console", "sh", ""):
        for command in commands(block):
            for program in words(command):
                if program and program[0] == name:
                    found.append(pytest.param(program, id=f"{block.name} {' '.join(program[:3])}"))
    return found


@pytest.mark.parametrize("program", programs("streamward"))
def test_commands_are_understood(program, capsys):
    try:
        build_parser().parse_args(program[1:])
    except SystemExit as ended:
        assert ended.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("program", programs("make"))
def test_targets_of_make_exist(program):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert next(word for word in program[1:] if not word.startswith("-") and "=" not in word) in targets


@pytest.mark.parametrize("program", programs("curl"))
def test_requests_have_routes_and_bodies_in_json(program, tmp_path):
    address = next(word for word in program if "localhost:" in word or "127.0.0.1:" in word)
    path = "/" + address.split("/", 3 if "//" in address else 1)[-1]
    with open_service(tmp_path, guard=marked_guard()) as service:
        known = [re.sub(r"\{[^}]+\}", "[^/]+", route) for route in service.app.openapi()["paths"]]
    if ":8000" in address and "pooling" not in path:
        assert any(re.fullmatch(route, path.split("?")[0]) for route in known), path
    if "-d" in program:
        json.loads(program[program.index("-d") + 1])
