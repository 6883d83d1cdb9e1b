"""`streamward mask`: standard input to standard output, masked."""

import json
import subprocess
import sys

import pytest


def mask(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamward", "mask", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8")


def test_a_text_is_masked_and_findings_are_told() -> None:
    done = mask("é jo@example.com\n", "--detectors", "email", "--findings")
    assert (done.returncode, done.stdout) == (0, "é [EMAIL]\n")
    assert json.loads(done.stderr) == {
        "id": "email",
        "label": "EMAIL",
        "action": "mask",
        "start": 2,
        "end": 16,
        "masked_start": 2,
        "masked_end": 9,
    }


def test_json_stays_json() -> None:
    done = mask('{"card": 4111111111111111}', "--json")
    assert json.loads(done.stdout) == {"card": "[CARD]"}


@pytest.mark.parametrize(("target", "code", "out"), [("prompt", 3, "I am "), ("response", 0, "I am Zeus")])
def test_a_policy_decides_what_is_read_and_what_ends_the_text(tmp_path, target: str, code: int, out: str) -> None:
    path = tmp_path / "p.toml"
    table = '[[detectors]]\ntype = "words"\nwords = ["zeus"]\naction = "block"\napplies_to = ["prompt"]\n'
    path.write_text(f'name = "p"\n{table}')
    done = mask("I am Zeus", "--policy", str(path), "--target", target)
    assert (done.returncode, done.stdout) == (code, out)


def test_an_unknown_type_is_told_with_the_nearest() -> None:
    done = mask("", "--detectors", "emial")
    assert done.returncode == 2
    assert "did you mean 'email'?" in done.stderr
