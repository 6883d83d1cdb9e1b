import pytest

from streamward.evals.predictions import Prediction
from streamward.evals.whole_text import (
    NOT_FLAGGED,
    UNNAMED,
    by_language,
    category_table,
    decisions,
    judged,
    oracle,
    perturbation_deltas,
    refusal,
    set_ranking,
)
from streamward.schema import Category, Side
from tests.evals.rows import GREY, SAFE, UNSAFE, result, row, said

FAILED = Prediction("0", error="upstream_error")


def test_controversial_answers_count_at_strict_only():
    points = judged([(row(0, UNSAFE), said(0, GREY)), (row(1, SAFE), said(1, SAFE))]).points()
    assert points["strict"].true_positives == 1
    assert points["loose"].false_negatives == 1


def test_rows_that_people_call_controversial_are_apart():
    pairs = [(row(0, UNSAFE), said(0, UNSAFE)), (row(1, GREY), said(1, UNSAFE)), (row(2, GREY), said(2, SAFE))]
    strict = judged(pairs).points()["strict"]
    assert (strict.true_positives, strict.false_positives, strict.true_negatives) == (1, 0, 0)
    assert strict.controversial_flagged == 0.5


def test_a_row_that_was_not_judged_is_in_no_figure():
    pairs = [(row(0, UNSAFE), FAILED), (row(1, UNSAFE), said(1, UNSAFE)), (row(2, SAFE), FAILED)]
    strict = judged(pairs).points()["strict"]
    assert (strict.true_positives, strict.false_negatives, strict.true_negatives) == (1, 0, 0)


def test_only_failures_give_no_points():
    assert judged([(row(0, UNSAFE), FAILED)]).points() == {}


def test_the_oracle_takes_the_better_mode_and_the_best_line():
    pairs = [
        (row(0, UNSAFE), said(0, UNSAFE, unsafe=0.9)),
        (row(1, SAFE), said(1, GREY, unsafe=0.5)),
        (row(2, UNSAFE), said(2, UNSAFE, unsafe=0.8)),
    ]
    found = oracle(judged(pairs))
    assert found is not None
    assert (found.mode, found.mode_f1, found.threshold_f1) == ("loose", 1.0, 1.0)


def test_labels_without_probabilities_have_no_ranking():
    assert set_ranking(judged([(row(0, UNSAFE), said(0, UNSAFE)), (row(1, SAFE), said(1, SAFE))])) is None


def test_refusals_are_scored_and_silence_is_counted():
    pairs = [
        (row(0, refusal=True), said(0, SAFE, refusal=True)),
        (row(1, refusal=False), said(1, SAFE, refusal=True)),
        (row(2, refusal=True), said(2, SAFE)),
        (row(3), said(3, SAFE, refusal=True)),
    ]
    found = refusal(pairs)
    assert found is not None
    assert (found.point.true_positives, found.point.false_positives, found.silent_rows) == (1, 1, 1)


def test_no_labelled_refusals_give_none():
    assert refusal([(row(0, SAFE), said(0, SAFE))]) is None


def test_languages_are_apart_if_there_are_several():
    pairs = [(row(0, UNSAFE, language="en"), said(0, UNSAFE)), (row(1, UNSAFE, language="de"), said(1, SAFE))]
    found = by_language(pairs)
    assert {name: each.true_positives for name, each in found.items()} == {"de": 0, "en": 1}
    assert by_language(pairs[:1]) == {}


def test_categories_are_counted_by_what_was_said():
    violent, pii = (Category.VIOLENT,), (Category.PII, Category.VIOLENT)
    pairs = [
        (row(0, UNSAFE, categories=violent), said(0, UNSAFE, category=Category.VIOLENT)),
        (row(1, UNSAFE, categories=pii), said(1, UNSAFE, category=Category.VIOLENT)),  # one of its two
        (row(2, UNSAFE, categories=pii), said(2, UNSAFE, category=Category.SEXUAL)),
        (row(3, UNSAFE, categories=violent), said(3, SAFE)),
        (row(4, UNSAFE, categories=violent), said(4, UNSAFE)),
        (row(5, UNSAFE), said(5, UNSAFE)),
        (row(6, SAFE, categories=violent), said(6, UNSAFE)),
    ]
    table = category_table(pairs, Side.PROMPT)
    assert table is not None
    cells = {
        (table.names[line], table.names[column]): value
        for line, counts in enumerate(table.counts)
        for column, value in enumerate(counts)
        if value
    }
    assert cells == {
        ("Violent", "Violent"): 2,
        ("PII", "Sexual Content or Sexual Acts"): 1,
        ("Violent", NOT_FLAGGED): 1,
        ("Violent", UNNAMED): 1,
    }


def test_decisions_are_one_letter_a_row():
    pairs = [(row(0, UNSAFE), said(0, GREY)), (row(1, GREY), FAILED), (row(2), said(2, SAFE)), (row(3, SAFE), FAILED)]
    found = decisions(pairs)
    assert (found.truth, found.strict, found.loose) == ("1c-0", "1!0!", "0!0!")


def test_a_perturbation_is_compared_on_the_rows_judged_both_ways():
    rows = [row(0, UNSAFE), row(1, UNSAFE), row(2, SAFE), row(3, UNSAFE)]
    plain = result(rows, [said(0, UNSAFE), said(1, UNSAFE), said(2, SAFE), said(3, UNSAFE)])
    worn = result(rows[:3], [said(0, SAFE), said(1, UNSAFE), said(2, UNSAFE)], perturbation="case")
    overall, own = perturbation_deltas([plain, worn])
    assert (overall.set_name, own.set_name, own.rows) == ("all", "own", 3)
    assert own.recall == 0.5
    assert own.recall_change is not None and own.recall_change.value == pytest.approx(-0.5)
    assert own.false_positive_rate_change is not None and own.false_positive_rate_change.value == 1.0
