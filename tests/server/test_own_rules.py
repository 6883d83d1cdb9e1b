"""The routes of the service name the rules that fired, and policies come and go with what was taught."""

from pathlib import Path

import pytest

from streamward.errors import ConfigError
from streamward.policy import Policy
from streamward.rules.examples import rule_digest
from streamward.rules.probe import probe_path
from tests.rules.banks import ALWAYS, NEVER, bank_of, rule_probe, small_guard
from tests.server.services import open_service

TEXT = (
    'name = "own"\n[prompt]\nunsafe = "allow"\ncontroversial = "allow"\n[[rules]]\nid = "one"\ntext = "no"\n'
    'examples = ["a"]\naction = "block"\n'
)


def write_policy(folder: Path, threshold: float) -> None:
    path = folder / "own.toml"
    path.write_text(TEXT, encoding="utf-8")
    rule = Policy.load(path, needs_taught_rules=False).rules[0]
    bank = bank_of([rule_probe("one", digest=rule_digest(rule, folder), threshold=threshold)])
    probe_path(path).write_bytes(bank.to_bytes())


def test_answers_logs_and_metrics_name_the_rules(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    write_policy(folder, ALWAYS)
    changes = {"policies": {"folder": str(folder), "default": "own"}}
    with open_service(tmp_path, guard=small_guard(), **changes) as service:
        found = service.post("/v1/guard", {"prompt": "hello there"}).json()
        assert [rule["id"] for rule in found["decision"]["rules"]] == ["one"]
        result = service.post("/v1/moderations", {"input": "hello there"}).json()["results"][0]
        assert result["flagged"]
        assert [rule["id"] for rule in result["streamward"]["rules"]] == ["one"]
        assert service.metric("streamward_rules_fired_total", endpoint="guard", rule="one") == 1
        write_policy(folder, NEVER)
        assert service.state.policies.reload(is_forced=True)
        assert service.post("/v1/guard", {"prompt": "hello there"}).json()["decision"]["action"] == "allow"
        probe_path(folder / "own.toml").write_bytes(b"broken")
        with pytest.raises(ConfigError, match="teach"):
            service.state.policies.reload(is_forced=True)
        assert service.post("/v1/guard", {"prompt": "hello there"}).status_code == 200
