"""`streamward doctor` on a small guard."""

import json
import socket

import pytest

from streamward.cli.main import main
from streamward.model.checkpoint import save_checkpoint
from tests.moderation.guards import TEMPLATE, byte_tokenizer, random_model


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "guard"
    save_checkpoint(random_model(), path)
    byte_tokenizer().save(str(path / "tokenizer.json"))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def checked(capsys, *arguments: object) -> tuple[int, dict[str, dict[str, str]]]:
    code = main(["doctor", "--json", *map(str, arguments)])
    return code, json.loads(capsys.readouterr().out)


def test_an_installation_that_works(capsys, folder, port, tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMWARD_CACHE", str(tmp_path / "cache"))
    code, found = checked(capsys, "--guard", folder, "--port", port)
    assert code == 0
    assert {"version", "cpu", "cache", "guard", "time per token", "port", "extra serve", "extra train"} <= found.keys()
    assert found["guard"]["state"] == found["port"]["state"] == found["time per token"]["state"] == "ok"
    assert " ms (median of " in found["time per token"]["detail"]
    assert str(tmp_path / "cache") in found["cache"]["detail"]
    assert not (tmp_path / "cache").exists()
    assert "threads" in found["cpu"]["detail"]


def test_a_port_that_is_taken_has_failed(capsys, folder):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code, found = checked(capsys, "--guard", folder, "--port", listener.getsockname()[1])
    assert code == 1
    assert found["port"]["state"] == "failed"
    assert "in use" in found["port"]["detail"]


@pytest.mark.parametrize("port", [70000, -1])
def test_a_port_that_is_none_has_failed(capsys, folder, port):
    code, found = checked(capsys, "--guard", folder, f"--port={port}")
    assert (code, found["port"]["state"]) == (1, "failed")


def test_a_guard_that_is_not_there_has_failed_and_the_rest_is_told(capsys, port):
    code, found = checked(capsys, "--guard", "no-such-guard", "--port", port)
    assert code == 1
    assert "no-such-guard" in found["guard"]["detail"]
    assert found["port"]["state"] == "ok"
    assert "time per token" not in found


def test_an_extra_that_is_missing_comes_with_the_command_that_installs_it(capsys, folder, port, monkeypatch):
    from streamward.cli import doctor

    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=1", 'no-such-package>=2; extra == "moon"'])
    code, found = checked(capsys, "--guard", folder, "--port", port)
    assert code == 0
    assert found["extra moon"]["state"] == "note"
    assert found["extra moon"]["detail"] == "missing no-such-package: pip install 'streamward[moon]'"


def test_people_get_a_line_for_each_check(capsys, folder, port):
    assert main(["doctor", "--guard", str(folder), "--port", str(port)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("guard ") and " ok " in line for line in lines)
    assert any(line.startswith("port ") for line in lines)
