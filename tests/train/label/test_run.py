"""`streamward train label` with judges that vote by a word."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from streamward.data.rows import Row, read_rows, write_rows
from streamward.errors import ConfigError, InputError, UpstreamError
from streamward.generative.judgement import GenJudgement
from streamward.moderation.gen_guard_adapter import GenGuardAdapter
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.schema import Category, Message, RiskLevel, Role
from streamward.train.label.config import JudgeConfig, LabelConfig
from streamward.train.label.run import label

ROWS: list[Row] = [
    {"id": "1", "prompt": "make a bomb", "response": "no, sorry", "native": {"own": 1}},
    {"id": "2", "prompt": "make a cake", "response": "take flour"},
    {"id": "3", "prompt": "tell me about knives", "prompt_label": "Safe"},
    {"id": "4", "prompt": "", "response": "a bomb it is"},
    {"id": "5", "prompt": "go on", "native": {"history": [{"role": "user", "content": "a bomb"}]}},
]


class WordGuard:
    """Says Unsafe where one of its words stands in the conversation; counts what it was asked; may fail."""

    def __init__(self, *words: str, fails_on: str = "\0") -> None:
        self.words = words
        self.fails_on = fails_on
        self.num_asked = 0

    def judge(self, messages: Sequence[Message]) -> GenJudgement:
        self.num_asked += 1
        text = " ".join(message.content for message in messages)
        if self.fails_on in text:
            raise UpstreamError("down")
        is_risky = any(word in messages[-1].content for word in self.words)
        level = RiskLevel.UNSAFE if is_risky else RiskLevel.SAFE
        refusal = "sorry" in text if messages[-1].role is Role.ASSISTANT else None
        probabilities = {each: float(each is level) for each in RiskLevel}
        return GenJudgement(level, probabilities, (Category.VIOLENT,) if is_risky else (), refusal)

    def close(self) -> None:
        pass


def settings(folder: Path, *judges: str, **values: Any) -> LabelConfig:
    write_rows(folder / "rows.jsonl", ROWS)
    table = {
        "input": str(folder / "rows.jsonl"),
        "output": str(folder / "out.jsonl.gz"),
        "judges": [{"name": judge, "guard": judge} for judge in judges],
        "batch_rows": 2,
        **values,
    }
    return LabelConfig.parse(table, source="test")


def labelled(config: LabelConfig, **guards: WordGuard) -> dict[str, Row]:
    def open_judge(judge: JudgeConfig) -> Moderator:
        return Moderator(GenGuardAdapter(guards[judge.name]), policy=Policy.load(judge.policy))

    path = label(config, open_judge=open_judge)
    return {row["id"]: row for _, row in read_rows(path)}


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out.report.json").read_text(encoding="utf-8"))
    return found


def test_the_majority_labels_levels_kinds_and_refusals(tmp_path: Path) -> None:
    guards = {"a": WordGuard("bomb"), "b": WordGuard("bomb", "knives"), "c": WordGuard()}
    rows = labelled(settings(tmp_path, "a", "b", "c"), **guards)
    assert (rows["1"]["prompt_label"], rows["1"]["response_label"]) == ("Unsafe", "Safe")
    assert rows["1"]["refusal"] is True
    assert rows["1"]["categories"] == ["Violent"]
    assert rows["1"]["native"]["own"] == 1
    assert (rows["2"]["prompt_label"], rows["2"]["refusal"]) == ("Safe", False)
    assert (rows["4"]["prompt_label"], rows["4"]["response_label"]) == (None, "Unsafe")
    assert rows["5"]["response_label"] is None


def test_given_labels_stay_unless_all_are_wanted_anew(tmp_path: Path) -> None:
    guards = {"a": WordGuard("knives")}
    assert labelled(settings(tmp_path, "a"), **guards)["3"]["prompt_label"] == "Safe"
    row = labelled(settings(tmp_path, "a", fill="all"), **guards)["3"]
    assert row["prompt_label"] == "Unsafe"
    assert row["native"]["given_labels"]["prompt_label"] == "Safe"
    assert row["native"]["label_basis"] == "judge vote"


def test_a_row_that_a_judge_failed_on_is_marked_and_labelled_by_the_others(tmp_path: Path) -> None:
    guards = {"a": WordGuard("bomb"), "b": WordGuard("bomb", fails_on="cake"), "c": WordGuard("bomb")}
    rows = labelled(settings(tmp_path, "a", "b", "c"), **guards)
    assert rows["2"]["native"]["failed_judges"] == ["b"]
    assert rows["2"]["prompt_label"] == "Safe"
    assert "failed_judges" not in rows["1"]["native"]
    assert report(tmp_path)["failed"] == {"a": 0, "b": 1, "c": 0}


def test_without_enough_answers_there_is_no_label(tmp_path: Path) -> None:
    guards = {"a": WordGuard("bomb", fails_on="bomb"), "b": WordGuard("bomb")}
    row = labelled(settings(tmp_path, "a", "b"), **guards)["1"]
    assert row["prompt_label"] is None


def test_judges_are_asked_once_and_again_only_where_they_failed(tmp_path: Path) -> None:
    guards = {"a": WordGuard("bomb"), "b": WordGuard("bomb", fails_on="cake")}
    config = settings(tmp_path, "a", "b")
    labelled(config, **guards)
    asked = guards["a"].num_asked
    guards["b"] = WordGuard("bomb")
    rows = labelled(config, **guards)
    assert guards["a"].num_asked == asked
    assert guards["b"].num_asked == 2  # both sides of the row with the cake
    assert "failed_judges" not in rows["2"]["native"]


def test_a_run_stopped_within_a_line_goes_on(tmp_path: Path) -> None:
    config = settings(tmp_path, "a")
    wanted = labelled(config, a=WordGuard("bomb"))
    (votes,) = next(tmp_path.glob("out.votes-*")).iterdir()
    votes.write_bytes(votes.read_bytes()[:-150])
    guard = WordGuard("bomb")
    assert labelled(config, a=guard) == wanted
    assert 0 < guard.num_asked < len(ROWS)


def test_votes_on_other_rows_are_not_taken(tmp_path: Path) -> None:
    config = settings(tmp_path, "a")
    labelled(config, a=WordGuard("bomb"))
    write_rows(config.input, [{"id": "9", "prompt": "a bomb"}])
    assert labelled(config, a=WordGuard("bomb"))["9"]["prompt_label"] == "Unsafe"


def test_agreement_is_reported(tmp_path: Path) -> None:
    labelled(settings(tmp_path, "a", "b"), a=WordGuard("bomb"), b=WordGuard())
    found = report(tmp_path)["agreement"]["prompt"]
    assert found["pairwise"]["a / b"] == 0.75
    assert found["rows_all_judged"] == 4
    assert found["fleiss_kappa"] < 0.1
    assert "Fleiss kappa" in (tmp_path / "out.report.txt").read_text(encoding="utf-8")


def test_judges_of_the_same_name_and_rows_without_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name"):
        settings(tmp_path, "a", "a")
    config = settings(tmp_path, "a")
    write_rows(config.input, [{"id": "1", "prompt": ""}])
    with pytest.raises(InputError, match="no text"):
        labelled(config, a=WordGuard())


def test_a_row_too_long_for_a_judge_does_not_spoil_its_batch(tmp_path: Path) -> None:
    config = settings(tmp_path, "a", batch_rows=5)
    write_rows(config.input, [{"id": "1", "prompt": "x" * 1000}, {"id": "2", "prompt": "a bomb"}])

    def open_judge(judge: JudgeConfig) -> Moderator:
        return Moderator(GenGuardAdapter(WordGuard("bomb")), policy=Policy.load(judge.policy), max_chars=100)

    rows = {row["id"]: row for _, row in read_rows(label(config, open_judge=open_judge))}
    assert rows["1"]["native"]["votes"]["a"]["error"] == "context_length_exceeded"
    assert rows["1"]["prompt_label"] is None
    assert rows["2"]["prompt_label"] == "Unsafe"
