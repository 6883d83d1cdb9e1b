"""Completion in the three shells, by the shells themselves."""

import shutil
import subprocess

import pytest

from streamward.cli.main import build_parser, main

PLACES = [
    ("mod", "moderate", "watch"),
    ("models ", "info", "moderate"),
    ("models in", "info", "list"),
    ("moderate --j", "--json", "--prompt"),
    ("moderate --policy ", "loose", "--json"),
    ("moderate --policy lo", "loose", "strict"),
    ("watch --guard stream", "stream-135m-small", "--policy"),
    ("keys create acme --max", "--max-concurrent", "--admin"),
    ("completion ", "fish", "moderate"),
    ("--v", "--version", "moderate"),
]
each_place = pytest.mark.parametrize(("typed", "offered", "not_offered"), PLACES)
BASH = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_streamward
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSH = """
compdef() {{ }}
source {script}
words=({words}) CURRENT={count}
offer() {{ for each in "$@"; do [[ $each == ${{words[CURRENT]}}* ]] && print -r -- "${{each%%:*}}"; done }}
_describe() {{ local -a found; found=("${{(@P)2}}"); offer "$found[@]" }}
compadd() {{ shift; offer "$@" }}
_files() {{ }}
_streamward
true
"""


@pytest.fixture
def script(capsys, tmp_path):
    def written(shell: str) -> str:
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        assert main(["completion", shell]) == 0
        path = tmp_path / f"streamward.{shell}"
        path.write_text(capsys.readouterr().out)
        return str(path)

    return written


def run(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


def quoted(typed: str) -> str:
    return " ".join(f"'{word}'" for word in ("streamward", *typed.split(" ")))


@each_place
def test_bash(script, typed, offered, not_offered):
    found = run("bash", "-c", BASH.format(script=script("bash"), words=quoted(typed)))
    assert offered in found
    assert not_offered not in found


@each_place
def test_zsh(script, typed, offered, not_offered):
    count = len(typed.split(" ")) + 1
    found = run("zsh", "-fc", ZSH.format(script=script("zsh"), words=quoted(typed), count=count))
    assert offered in found
    assert not_offered not in found


@each_place
def test_fish(script, typed, offered, not_offered):
    found = run("fish", "--no-config", "-c", f"source {script('fish')}; complete -C 'streamward {typed}'")
    assert offered in found
    assert not_offered not in found


def test_files_are_offered_where_an_option_takes_one(script, tmp_path):
    (tmp_path / "conversation.json").write_text("[]")
    typed = f"streamward moderate --messages {tmp_path}/conv"
    found = run("fish", "--no-config", "-c", f"source {script('fish')}; complete -C '{typed}'")
    assert found == [f"{tmp_path}/conversation.json"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_option_is_in_the_script(capsys, shell):
    assert main(["completion", shell]) == 0
    written = capsys.readouterr().out
    waiting = [build_parser()]
    while waiting:
        for action in waiting.pop()._actions:
            if action.choices and hasattr(action.choices, "values"):
                waiting += action.choices.values()
                assert all(name in written for name in action.choices)
            assert all(flag.lstrip("-") in written for flag in action.option_strings)


def test_another_shell_is_bad_input(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["completion", "csh"])
    assert ended.value.code == 2
    assert "bash, fish, zsh" in capsys.readouterr().err
