"""The examples of `--help` do what they say: each that needs no network, no training and no terminal is run."""

import json
import re
import shlex
import shutil
import socket
from pathlib import Path

import pytest

from streamward.cli import common, doctor
from streamward.cli.main import main
from streamward.model.checkpoint import save_checkpoint
from tests.cli.test_help import EXAMPLES
from tests.moderation.guards import TEMPLATE, byte_tokenizer
from tests.server.marked_guard import marked_model

ROOT = Path(__file__).parent.parent.parent
NOT_RUN = (
    "assistant",  # starts a server
    "train",
    "teach",  # needs a rule that can be learnt; see tests/teach
    "evaluate",  # need data
    "models",  # need the embedded guard or a hub; see test_main.py
    "doctor --guard",
)
SERVERS = re.compile(r"serve(?!.*--(check|print-config))")
RUN = [
    each
    for each in EXAMPLES
    if not each[11:].startswith(NOT_RUN) and not SERVERS.match(each[11:]) and "--ray" not in each
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what the examples name."""
    guard = tmp_path / "guard"
    save_checkpoint(marked_model(), guard)
    byte_tokenizer().save(str(guard / "tokenizer.json"))
    (guard / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "conversation.json").write_text(json.dumps([{"role": "user", "content": "hello"}]))
    (tmp_path / "traffic.jsonl").write_text(json.dumps({"prompt": "hello"}) + "\n")
    (tmp_path / "recorded.jsonl").write_text(json.dumps({"prompt": "hello"}) + "\n")
    (tmp_path / "mine.toml").write_text('name = "mine"\n')
    (tmp_path / "policy.toml").write_text('name = "own"\n[[detectors]]\ntype = "email"\n')
    (tmp_path / "stdin").write_text("hello")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "DEFAULT_GUARD", str(guard))
    monkeypatch.setattr(doctor, "DEFAULT_GUARD", str(guard))
    with (tmp_path / "stdin").open(encoding="utf-8") as standard_input:
        monkeypatch.setattr("sys.stdin", standard_input)
        yield tmp_path


def test_most_commands_have_an_example_that_is_run():
    assert {each.split()[1] for each in RUN} >= {"moderate", "watch", "serve", "keys", "audit", "store", "doctor"}


@pytest.mark.parametrize("example", RUN)
def test_an_example_runs(place, capfd, example):
    line = re.sub(r"\s*(\([^)]*\)|>\s*\S+)\s*$", "", example)
    words = shlex.split(line)[1:]
    if words[0] == "doctor":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        words += ["--port", str(port)]
    code = main(words)
    captured = capfd.readouterr()
    if words[:2] == ["keys", "revoke"]:
        assert code == 2  # there is no such key here
        return
    assert code == 0, captured.err
    assert captured.out or words[0] in ("audit", "keys", "store")
    if "--json" in words:
        json.loads(captured.out)
