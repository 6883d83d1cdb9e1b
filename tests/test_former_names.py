"""Former names of settings, report fields and flags are accepted until the next release."""

from argparse import ArgumentParser
from pathlib import Path

import pytest

from streamward.cli.evaluate import add_parser
from streamward.data.jsonl import contrastive_pair
from streamward.distributed.config import ApplicationArguments
from streamward.evals.report_model import CurvePoint, Oracle, PerturbationDelta
from streamward.server.config import ConsoleConfig
from streamward.train.config import StreamTrainConfig
from streamward.train.synthesize.config import SynthesizeConfig
from streamward.train.synthesize.lexicon import Frames


@pytest.mark.parametrize(
    ("former", "name", "value"),
    [
        ("alarm_weight", "worst_token_loss_weight", 0.25),
        ("flicker_weight", "monotonicity_loss_weight", 0.05),
        ("half", "fold", "A"),
        ("ordinary_sources", "benign_traffic_sources", ("benign.jsonl",)),
    ],
)
def test_training_settings(former: str, name: str, value: object) -> None:
    run = {"name": "guard", "data_root": Path("data"), "sources": [{"file": "rows.jsonl"}]}
    config = StreamTrainConfig.parse({**run, former: value}, source="test")
    assert getattr(config, name) == value


def test_families_and_frames_of_synthesis() -> None:
    rows = {"en": {"plea": 1, "lookalike": 2, "disguise": 3}}
    config = SynthesizeConfig.parse({"lexicon": "lexicon", "output": "rows.jsonl", "rows": rows}, source="test")
    assert config.rows["en"] == {"short_request": 1, "hard_negative": 2, "perturbation": 3}
    frames = Frames.parse(
        {"act": ["{act}"], "refusal": ["No."], "benign_body": ["Yes."], "plea": ["{act}!"]}, source=""
    )
    assert frames.short_request == ("{act}!",)


def test_contrastive_pairs_of_earlier_data_sets() -> None:
    assert contrastive_pair({"twin": "pair 7"}) == contrastive_pair({"contrastive_pair": "pair 7"}) == "pair 7"


def test_report_fields() -> None:
    assert Oracle.parse({"mode_f1": 0.5, "mode": "strict", "line_f1": 0.75}, source="test").threshold_f1 == 0.75
    assert CurvePoint.parse({"line": 0.5, "recall": 1.0, "false_stop_rate": 0.0}, source="test").threshold == 0.5
    delta = {"set_name": "all", "rows": 1, "recall": None, "recall_change": None}
    rates = {"false_positive_rate": None, "false_positive_rate_change": None}
    assert PerturbationDelta.parse({"disguise": "case", **delta, **rates}, source="test").perturbation == "case"


def test_settings_of_the_console() -> None:
    config = ConsoleConfig.parse({"max_watchers": 3, "max_watchers_per_tenant": 2}, source="test")
    assert (config.max_subscribers, config.max_subscribers_per_tenant) == (3, 2)


def test_settings_of_replicas_on_ray() -> None:
    arguments = ApplicationArguments.parse({"guard": "stream-135m", "fleet": {"max_replicas": 3}}, source="test")
    assert arguments.ray.max_replicas == 3


def test_flags_of_evaluate() -> None:
    parser = ArgumentParser()
    add_parser(parser.add_subparsers())
    assert parser.parse_args(["evaluate", "table", "a", "--floor", "b"]).baseline_report == "b"
    assert parser.parse_args(["evaluate", "sets", "--held-back", "0.1"]).held_out == 0.1
