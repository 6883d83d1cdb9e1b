"""Policies of a service: files, hot reload, versions; and trying one on recorded traffic."""

import io
import json
import os

import pytest

from streamward.cli.main import main
from streamward.errors import AuditError, ConfigError, InputError
from streamward.model.checkpoint import save_checkpoint
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.schema import Action
from streamward.server.audit_reading import Period, all_rows, write_jsonl
from streamward.server.dry_run import read_records, try_policy
from tests.moderation.guards import TEMPLATE, byte_tokenizer, random_model, stream_guard
from tests.server.services import open_service


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "policies"
    path.mkdir()
    (path / "mine.toml").write_text('name = "mine"\nversion = "1"\n')
    return path


def rewrite(path, text):
    """Write a file so that it looks changed whatever the clock's grain."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_a_changed_file_is_in_force_after_the_next_look(tmp_path, folder):
    with open_service(tmp_path, policies={"folder": str(folder)}) as service:
        store = service.state.policies
        first = store.get("mine").digest
        assert store.reload() is False
        rewrite(folder / "mine.toml", 'name = "mine"\nversion = "2"\n[prompt]\nunsafe = "flag"\n')
        rewrite(folder / "new.toml", 'name = "new"\n')
        assert store.reload() is True
        assert store.get("mine").policy.version == "2"
        answer = service.post("/v1/guard", {"prompt": "x", "policy": "mine"}).json()
        assert answer["policy"] == {"name": "mine", "version": "2", "digest": store.get("mine").digest}
        assert "new" in store.all
        (folder / "new.toml").unlink()
        assert store.reload() is True
        assert service.post("/v1/guard", {"prompt": "x", "policy": "new"}).status_code == 400
        versions = service.get("/admin/policies/mine/versions", headers=service.key("ops", is_admin=True)).json()
        assert [version["version"] for version in versions] == ["1", "2"]
        assert versions[0]["digest"] == first
        assert service.metric("streamward_policy_reloads_total", outcome="changed") == 2


@pytest.mark.parametrize(
    "text", ["name = ", 'name = "mine"\ncolour = "red"\n', 'name = "other"\n[prompt]\nunsafe = "replace"\n']
)
def test_a_wrong_file_leaves_what_was_in_force_and_shows(tmp_path, folder, text):
    with open_service(tmp_path, policies={"folder": str(folder), "default": "mine"}) as service:
        before = service.state.policies.get("mine")
        rewrite(folder / "mine.toml", text)
        with pytest.raises(ConfigError):
            service.state.policies.reload()
        assert service.state.policies.get("mine") == before
        assert service.post("/v1/guard", {"prompt": "x"}).json()["policy"]["name"] == "mine"
        ready = service.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["warnings"]
        assert service.post("/admin/policies/reload", {}, headers=service.key("ops", is_admin=True)).status_code == 400
        assert service.metric("streamward_policy_reloads_total", outcome="failed") == 2
        rewrite(folder / "mine.toml", 'name = "mine"\nversion = "3"\n')
        assert service.state.policies.reload() is True
        assert service.get("/ready").json()["warnings"] == []


def test_a_default_that_vanishes_stays_in_force(tmp_path, folder):
    with open_service(tmp_path, policies={"folder": str(folder), "default": "mine"}) as service:
        (folder / "mine.toml").unlink()
        with pytest.raises(ConfigError, match=r"policies\.default"):
            service.state.policies.reload()
        assert service.post("/v1/guard", {"prompt": "x"}).json()["policy"]["name"] == "mine"


def test_a_policy_changed_under_its_old_version_is_told(tmp_path, folder, caplog):
    with open_service(tmp_path, policies={"folder": str(folder)}) as service:
        rewrite(folder / "mine.toml", 'name = "mine"\nversion = "1"\n[prompt]\nunsafe = "flag"\n')
        service.state.policies.reload()
        assert "policy changed without a new version" in caplog.text
        assert len(service.state.policies.versions("mine")) == 2


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"a.toml": 'name = "x"\n', "b.toml": 'name = "x"\n'}, "both hold a policy"),
        ({"a.toml": "name = 5\n"}, "a.toml"),
        ({"a.toml": 'name = "x"\n'}, "policies.default"),
    ],
)
def test_wrong_policies_are_told_before_serving(tmp_path, files, problem):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    default = "nothing" if "default" in problem else "strict"
    settings = {"folder": str(tmp_path), "default": default}
    with pytest.raises(ConfigError, match=problem), open_service(tmp_path, policies=settings):
        pass


def test_a_missing_folder_is_told_before_serving(tmp_path):
    with (
        pytest.raises(ConfigError, match="is not a folder"),
        open_service(tmp_path, policies={"folder": str(tmp_path / "nothing")}),
    ):
        pass


@pytest.fixture
def moderator():
    with Moderator(stream_guard(), policy=Policy.load("strict")) as opened:
        yield opened


def exported(lines):
    return io.BytesIO("\n".join(lines).encode())


def test_recorded_traffic_is_judged_again_by_another_policy(moderator):
    texts = [f"text {index}" for index in range(100)]
    recorded = [
        {"id": f"dec_{index}", "action": moderator.moderate(prompt=text).decision.action, "prompt_text": text}
        for index, text in enumerate(texts)
    ]
    lines = [json.dumps(row) for row in recorded] + ["", json.dumps({"id": "hash only", "action": "block"})]
    lines += [json.dumps({"id": "blank", "action": "allow", "prompt_text": " "})]
    same = try_policy(moderator, read_records(exported(lines)))
    assert (same.num_rows, same.num_without_text) == (102, 2)
    assert (same.newly_stopped, same.newly_passed) == ([], [])
    lax = Policy(name="lax", prompt={"unsafe": "allow", "controversial": "allow"})
    other = try_policy(moderator.with_policy(lax), read_records(exported(lines)))
    assert other.newly_passed == [row["id"] for row in recorded if row["action"] == Action.BLOCK]
    assert sum(other.changes.values()) == 100


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"action": "dance", "prompt": "x"}'])
def test_a_record_that_cannot_be_read_is_named_by_its_line(line):
    with pytest.raises(InputError, match="line 2"):
        list(read_records(exported(['{"prompt": "x"}', line])))


def test_policy_try_reads_an_export_on_the_command_line(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "guard"
    save_checkpoint(random_model(), folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "keep.toml").write_text('name = "keep"\n[recording]\ntext = "always"\n')
    with open_service(tmp_path, policies={"folder": str(policies), "default": "keep"}) as service:
        for text in ("hello", "yes", "the other thing"):
            service.post("/v1/guard", {"prompt": text, "response": text})
        with (tmp_path / "export.jsonl").open("w") as file:
            assert write_jsonl(all_rows(service.state.engine, Period()), file) == 3
    command = ["policy", "try", "loose", str(tmp_path / "export.jsonl"), "--guard", str(folder)]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_rows"], found["num_without_text"]) == (3, 0)
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("3 records, 0 of them without text")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"nonsense")))
    assert main([*command[:3], "-", *command[4:]]) == 2


def test_a_database_that_fails_does_not_change_policies(tmp_path, folder):
    with open_service(tmp_path, policies={"folder": str(folder)}, store={"timeout_s": 0.1}) as service:
        service.state.engine.dispose()
        (tmp_path / "service.sqlite3").rename(tmp_path / "moved")
        (tmp_path / "service.sqlite3").mkdir()
        rewrite(folder / "mine.toml", 'name = "mine"\nversion = "2"\n')
        with pytest.raises(AuditError):
            service.state.policies.reload()
        assert service.state.policies.get("mine").policy.version == "1"
