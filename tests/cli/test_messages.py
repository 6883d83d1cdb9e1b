"""What people get wrong, and what they read then: the key, what is allowed, the nearest known name, no machinery."""

import re

import pytest

from streamward.cli.main import main

MACHINERY = re.compile(
    r"pydantic|Extra inputs|Input should|Value error|Field required|JSON decode|Errno|Traceback|Error:|\w+Error\b"
    r"|validation error|NoneType|dict_type|extra_forbidden|\(at line|invalid choice|valid dictionary|\.py\b|Expecting"
)

SETTINGS = {
    "[listen]\nprot = 1\n": "listen.prot is unknown; did you mean 'port'?",
    "port = 1\n": "port is unknown; did you mean 'listen.port'?",
    "colour = 1\n": "colour is unknown; known are guard, listen",
    '[listen]\nport = "x"\n': "listen.port must be a whole number",
    "[listen]\nport = 70000\n": "listen.port must be at most 65535",
    "listen = 5\n": "listen must be a table",
    "[listen]\ntls_key = 'a.pem'\n": "listen: tls_certificate and tls_key go together",
    '[log]\nlevel = "inof"\n': "log.level must be 'debug', 'info', 'warning' or 'error'; did you mean 'info'?",
    "[limits]\ndrain_s = inf\n": "limits.drain_s must be a finite number",
    "[limits]\nmax_chars = 0\n": "limits.max_chars must be greater than 0",
    "[auth]\nrequired = 'maybe'\n": "auth.required must be true or false",
    "[upstreams.Mine]\nbase_url = 'http://x/v1'\n": "upstreams.Mine is no key that is allowed",
    "[upstreams.a]\napi_key = 'sk-1'\nbase_url = 'http://x/v1'\n": "a.api_key is unknown; did you mean 'api_key_env'?",
    "[upstreams.a]\n": "upstreams.a.base_url is missing",
    "[upstreams.a]\nbase_url = 'x'\n": "upstreams.a.base_url must match the pattern ^https?://",
    "[upstreams.a]\nbase_url = 'http://x/v1'\nrelease.mode = 'hold'\n": "upstreams.a.release: hold_tokens",
    "guard = \n": "line 1, column 9: a value must be text in quotes",
    "guard 'x'\n": "line 1, column 7: expected '=' after a key",
    "guard = 'x'\nguard = 'y'\n": "line 2, column 12: the key was given before",
    "[listen\n": "line 1, column 8: expected ']'",
}

POLICIES = {
    'name = "x"\nprompt.unsafe = "blok"\n': "'replace' or 'block'; did you mean 'block'?",
    'name = "x"\nunsafe = "allow"\n': "unsafe is unknown; did you mean 'prompt.unsafe'?",
    'name = "x"\n[respones]\n': "respones is unknown; did you mean 'response'?",
    "version = '1'\n": "name is missing",
    'name = ""\n': "name must not be empty",
    'name = "x"\n[prompt.categories.Violentt]\n': "prompt.categories.Violentt is no key that is allowed; it must be",
    'name = "x"\n[prompt.thresholds]\nunsafe = 2\n': "prompt.thresholds.unsafe must be at most 1",
    'name = "x"\n[prompt.thresholds]\nunsafe = "0.5"\n': "prompt.thresholds.unsafe must be a number",
    'name = "x"\n[response]\nunsafe = "replace"\n': "an action is replace, so `replacement` must give",
    'name = "x"\n[on_error]\nprompt = "replace"\n': "on_error.prompt: replace is not possible",
}

COMMANDS = {
    ("modrate", "hi"): "did you mean 'moderate'?",
    ("policy", "chek", "strict"): "did you mean 'check'?",
    ("policy", "check", "strct"): "did you mean 'strict'?",
    ("moderate", "hi", "--polcy", "strict"): "unrecognized arguments: --polcy; did you mean '--policy'?",
    ("moderate", "hello", "big", "world"): "put a text of several words in quotes",
    ("moderate", "hi", "--guard", "stream-135"): "did you mean 'stream-135m'?",
    ("moderate", "hi", "--workers", "x"): "--workers must be a whole number",
    ("moderate", "--messages", "none.json"): "'none.json' cannot be read: no such file or directory",
    ("moderate", "--messages", "."): "'.' cannot be read: is a directory",
    ("moderate", "--jsonl", "none.jsonl"): "'none.jsonl' cannot be read: no such file or directory",
    ("evaluate", "b", "--suite", "quik", "--out", "x"): "--suite must be one of all, published, quick, robustness",
    ("evaluate", "b", "--out", "x", "--format", "lama-guard"): "did you mean 'llama-guard'?",
    ("evaluate", "compare", "a.json", "b.json", "--out", "x"): "no such file or directory",
    ("train", "stream", "--config", "none.toml"): "'none.toml' not found",
    ("train", "strem"): "did you mean 'stream'?",
    ("serve", "none.toml"): "settings file 'none.toml' not found",
    ("serve", "--print-config", "--set", "listen.prot=4"): "listen.prot is unknown; did you mean 'port'?",
    ("serve", "--print-config", "--set", "listen"): "write it as limits.max_in_flight=64",
    ("assistant", "--threads", "0"): "threads must be",
    ("audit", "export", "--since", "soon"): "write 2026-01-31",
}


def run(capsys, *arguments: str) -> tuple[int, str]:
    try:
        code = main(arguments)
    except SystemExit as stop:  # of the parser
        code = int(str(stop.code or 0))
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def check(told: str, expected: str) -> None:
    assert expected in told
    assert MACHINERY.search(told) is None, told


@pytest.mark.parametrize("text", SETTINGS)
def test_a_mistake_in_the_settings_is_named(capsys, tmp_path, text):
    path = tmp_path / "serve.toml"
    path.write_text(text)
    code, told = run(capsys, "serve", str(path), "--print-config")
    assert code == 2
    assert "sk-1" not in told
    check(told, SETTINGS[text])


@pytest.mark.parametrize("text", POLICIES)
def test_a_mistake_in_a_policy_is_named(capsys, tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    code, told = run(capsys, "policy", "check", str(path))
    assert code == 2
    check(told, POLICIES[text])


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_mistake_on_the_command_line_is_named(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, told = run(capsys, *arguments)
    assert code in (1, 2)
    check(told, COMMANDS[arguments])


def test_a_mistake_in_a_list_of_tables_is_told_once(capsys, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('name = "x"\ndata_root = "."\n[[sources]]\nfile = "a.jsonl"\nmax_row = 3\n')
    code, told = run(capsys, "train", "stream", "--config", str(path))
    assert code == 2
    check(told, "sources[0].max_row is unknown; did you mean 'max_rows'?")
    assert "at least" not in told
