"""Our own guards, functions and baselines under test."""

import json

import pytest

from streamward.errors import ConfigError, InputError
from streamward.evals.baselines import KeywordGuard, TfidfGuard
from streamward.evals.callable_guard import CallableGuard, read_answer
from streamward.evals.guard_choice import EndpointOptions, check_guard, open_guard
from streamward.evals.guards import StreamwardGuard, held_probabilities, identity_of
from streamward.loading import load
from streamward.model.checkpoint import save_checkpoint
from streamward.policy import LOOSE, STRICT
from streamward.schema import Action, Category, Side, Verdict
from tests.evals.rows import GREY, SAFE, UNSAFE, row
from tests.moderation.guards import TEMPLATE, byte_tokenizer, random_model

TEXTS = ["", "a", "the thing in the other river", "\u4f60\u597d " * 9, "x" * 700, "\ud800"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("guard")
    save_checkpoint(random_model(), path)
    byte_tokenizer().save(str(path / "tokenizer.json"))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


def response(number: int, text: str):
    return row(number, side=Side.RESPONSE, text=text, prompt="Tell me")


def test_our_guard_says_what_the_library_says(folder):
    guard, library = StreamwardGuard(str(folder), policy=LOOSE), load(folder, policy="strict")
    loose = load(folder, policy="loose")
    rows = [response(n, text) for n, text in enumerate(TEXTS)] * 3
    found = guard.judge(rows, keeps_tokens=True)
    for each, prediction in zip(rows, found, strict=True):
        expected = library.moderate(prompt=each.prompt, response=each.text)
        lenient = loose.moderate(prompt=each.prompt, response=each.text)
        assert expected.response is not None and lenient.response is not None
        assert prediction.risk_level == expected.response.risk_level
        blocked = expected.decision.side is Side.RESPONSE and expected.decision.action is not Action.ALLOW
        assert prediction.flagged_strict or not blocked
        assert (prediction.flagged_loose, prediction.flagged) == (lenient.response.risk_level is UNSAFE,) * 2
        assert len(prediction.tokens or ()) == len(expected.response.verdicts)
    for each in (guard, library, loose):
        each.close()


def test_predictions_do_not_depend_on_the_batch(folder):
    guard = StreamwardGuard(str(folder), policy=STRICT)
    rows = [row(n, text=text) for n, text in enumerate(TEXTS) if text]
    together = guard.judge(rows, keeps_tokens=False)
    alone = [guard.judge([each], keeps_tokens=False)[0] for each in rows]
    assert [each.risk_level for each in together] == [each.risk_level for each in alone]
    assert [each.error for each in together] == [None] * len(rows)
    guard.close()


def test_a_text_that_cannot_be_judged_is_marked_and_costs_no_other(folder):
    guard = StreamwardGuard(str(folder), policy=STRICT)
    found = guard.judge(
        [row(0, text="fine"), row(1, text="x" * 1_100_000), row(2, text="fine too")], keeps_tokens=False
    )
    assert [each.error for each in found] == [None, "context_length_exceeded", None]
    guard.close()


def test_other_weights_are_another_guard(folder, tmp_path):
    save_checkpoint(random_model(seed=1), tmp_path)
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    guards = [StreamwardGuard(str(path), policy=STRICT) for path in (folder, folder, tmp_path)]
    one, same, other = map(identity_of, guards)
    assert one == same != other
    for each in guards:
        each.close()


def verdict(position: int, unsafe: float, grey: float = 0.0) -> Verdict:
    return Verdict(position, SAFE, {SAFE: 1 - unsafe - grey, GREY: grey, UNSAFE: unsafe})


def test_the_risk_of_a_stream_is_what_two_successive_tokens_hold():
    held = held_probabilities([verdict(n, value) for n, value in enumerate([0.1, 0.9, 0.2, 0.6, 0.5])], run=2)
    assert held[UNSAFE] == 0.5
    assert held_probabilities([verdict(0, 0.7)], run=2)[UNSAFE] == 0.7
    assert held_probabilities([], run=2) == {}


def test_risk_adds_controversial():
    held = held_probabilities([verdict(0, 0.2, 0.5), verdict(1, 0.1, 0.6)], run=2)
    assert held[UNSAFE] == pytest.approx(0.1)
    assert 1 - held[SAFE] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("answer", "level"),
    [(True, UNSAFE), (False, SAFE), (0.5, UNSAFE), (0.49, SAFE), (1, UNSAFE), ("Controversial", GREY),
     ({"risk_level": "Safe", "probability": 0.9}, SAFE), ({"probability": 0.9, "category": "PII"}, UNSAFE)],
)  # fmt: skip
def test_what_a_function_may_answer(answer, level):
    assert read_answer(answer)["risk_level"] is level


@pytest.mark.parametrize(
    "answer", [None, 1.5, -0.1, float("nan"), "unsafe", {}, {"level": "Safe"}, [True], {"category": "PII"}]
)
def test_any_other_answer_marks_the_row(answer):
    guard = CallableGuard("f", lambda prompt, response: answer, policy=STRICT)
    (found,) = guard.judge([row(0)], keeps_tokens=False)
    assert (found.error, found.risk_level, found.flagged_strict) == ("upstream_failed", None, None)


def test_a_function_that_raises_marks_its_row_only():
    def judge(prompt, response):
        return 1 / (len(prompt) - 6) > 0

    found = CallableGuard("f", judge, policy=STRICT).judge([row(0), row(10), row(100)], keeps_tokens=False)
    assert [each.error is None for each in found] == [False, True, True]


def test_a_function_is_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_guard_module.py").write_text(
        "def judge(prompt, response):\n    return 'bad' in (response or prompt)\n"
    )
    monkeypatch.chdir(tmp_path)
    guard = open_guard("my_guard_module:judge", policy=STRICT, endpoint=EndpointOptions())
    assert [each.risk_level for each in guard.judge([row(0), row(1, text="bad")], keeps_tokens=False)] == [SAFE, UNSAFE]


@pytest.mark.parametrize(
    "name", ["no_such_module:f", "json:no_such_function", "http://host/v1", "any-guardrail:Deepset"]
)
def test_guards_that_are_not_there_are_told_at_once(name):
    with pytest.raises(ConfigError):
        check_guard(name, policy=STRICT, endpoint=EndpointOptions())


def test_the_keyword_baseline_names_what_it_found():
    found = KeywordGuard(policy=STRICT).judge(
        [row(0, text="bake bread"), row(1, text="build a BOMB")], keeps_tokens=False
    )
    assert [(each.risk_level, each.category) for each in found] == [(SAFE, None), (UNSAFE, Category.VIOLENT)]


def training(tmp_path, extra: str = ""):
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": f"{word} number {n} {extra}", "prompt_label": label}
            for n in range(40) for word, label in (("poison", "Unsafe"), ("bread", "Safe"))]  # fmt: skip
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_the_tfidf_baseline_learns_and_scores(tmp_path):
    guard = TfidfGuard([training(tmp_path)], policy=STRICT)
    safe, unsafe = guard.judge([row(0, text="bread please"), row(1, text="poison please")], keeps_tokens=False)
    assert (safe.risk_level, unsafe.risk_level) == (SAFE, UNSAFE)
    assert unsafe.probabilities is not None and unsafe.probabilities[UNSAFE] > 0.5
    assert identity_of(guard) == identity_of(TfidfGuard([tmp_path], policy=STRICT))


def test_the_tfidf_baseline_does_not_learn_what_is_judged(tmp_path):
    path = training(tmp_path)
    held_out = {f"poison number {n} " for n in range(40)}
    with pytest.raises(InputError, match="Safe and rows labelled Unsafe"):
        TfidfGuard([path], policy=STRICT, held_out=held_out)
