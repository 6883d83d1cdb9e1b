"""The command line as a newcomer meets it."""

import json
import subprocess
import sys

import pytest

from streamward.cli.main import main
from streamward.model.checkpoint import load_stream, save_checkpoint
from tests.moderation.guards import TEMPLATE, byte_tokenizer, random_model


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse
        code = int(str(stop.code or 0))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in the published layout."""
    path = tmp_path / "guard"
    save_checkpoint(random_model(), path)
    byte_tokenizer().save(str(path / "tokenizer.json"))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


@pytest.mark.parametrize(
    "command",
    [[], ["moderate"], ["watch"], ["models"], ["policy"], ["serve"], ["keys"], ["audit"], ["train"], ["bench"]],
)
def test_every_command_explains_itself(capsys, command):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "usage: streamward" in out


def test_no_command_is_bad_input(capsys):
    code, _, err = run(capsys)
    assert code == 2
    assert "COMMAND" in err


def test_help_does_not_load_torch():
    lines = (
        "import sys",
        "from streamward.cli.main import main",
        "try: main(['--help'])",
        "except SystemExit: pass",
        "assert 'torch' not in sys.modules",
    )
    assert subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, check=False).returncode == 0


def test_the_module_can_be_run():
    found = subprocess.run(
        [sys.executable, "-m", "streamward", "--version"], capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("streamward ")


def test_a_folder_is_judged_described_and_exported(capsys, folder, tmp_path):
    code, out, _ = run(capsys, "moderate", "hello", "--guard", str(folder), "--json")
    assert code in (0, 3)
    assert json.loads(out)["prompt"]["risk_level"]
    code, out, _ = run(capsys, "models", "info", str(folder))
    assert code == 0
    assert "judges every token" in out
    copy = tmp_path / "copy"
    assert run(capsys, "models", "export", str(folder), str(copy))[0] == 0
    load_stream(copy, dtype=random_model().decoder.embed.weight.dtype)
    code, _, err = run(capsys, "models", "export", str(folder), str(copy))
    assert code == 2
    assert "not an empty folder" in err


def test_a_damaged_checkpoint_is_a_failure_in_one_line(capsys, folder):
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    code, _, err = run(capsys, "moderate", "hello", "--guard", str(folder))
    assert code == 1
    assert "model.safetensors" in err
    assert err.count("\n") == 1


def test_an_unknown_guard_says_what_there_is(capsys):
    code, _, err = run(capsys, "moderate", "hello", "--guard", "nothing")
    assert code == 1
    assert "stream-135m" in err


def test_the_list_names_the_embedded_guard(capsys):
    code, out, _ = run(capsys, "models", "list")
    assert code == 0
    assert "stream-135m" in out


def test_policies_are_shown_and_checked(capsys, tmp_path):
    code, out, _ = run(capsys, "policy", "show", "loose")
    assert code == 0
    assert json.loads(out)["response"]["controversial"] == "allow"
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ncolour = "red"\n')
    code, _, err = run(capsys, "policy", "check", str(path))
    assert code == 2
    assert "colour" in err
    path.write_text('name = "mine"\n')
    assert run(capsys, "policy", "check", str(path))[0] == 0


def test_a_training_run_without_its_config_is_bad_input(capsys):
    code, _, err = run(capsys, "train", "stream", "--config", "missing.toml")
    assert code == 2
    assert "missing.toml" in err
