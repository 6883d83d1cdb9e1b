import pytest

from streamward.schema import Category, RiskLevel
from streamward.train.label.agreement import fleiss_kappa, pairwise
from streamward.train.label.majority import SideLabel, refusal_label, side_label
from streamward.train.label.votes import SideVote, Vote

S, C, U = RiskLevel.SAFE, RiskLevel.CONTROVERSIAL, RiskLevel.UNSAFE


def words(*levels: RiskLevel) -> list[SideVote]:
    return [SideVote(level, None if level is S else Category.PII) for level in levels]


@pytest.mark.parametrize(
    ("levels", "expected"), [((S, S, U), S), ((U, U, S), U), ((C, C, U), C), ((U,), U), ((S, C, U, U), U)]
)
def test_the_level_of_most_votes_wins(levels: tuple[RiskLevel, ...], expected: RiskLevel) -> None:
    assert side_label(words(*levels), min_votes=1, ties="unlabelled").level is expected


@pytest.mark.parametrize(("ties", "expected"), [("unlabelled", None), ("severe", U), ("controversial", C)])
def test_a_tie_is_handled_as_the_settings_say(ties, expected: RiskLevel | None) -> None:
    found = side_label(words(S, U), min_votes=1, ties=ties)
    assert (found.level, found.is_tie) == (expected, True)


def test_too_few_answers_give_no_label() -> None:
    assert side_label(words(U), min_votes=2, ties="severe") == SideLabel()
    assert side_label([], min_votes=1, ties="severe") == SideLabel()


def test_the_most_frequent_kind_of_harm_is_taken_and_all_of_several_equals() -> None:
    votes = [SideVote(U, Category.PII), SideVote(U, Category.PII), SideVote(U, Category.VIOLENT), SideVote(S)]
    assert side_label(votes, min_votes=1, ties="severe").categories == (Category.PII,)
    assert side_label(votes[1:3], min_votes=1, ties="severe").categories == (Category.VIOLENT, Category.PII)
    assert side_label(words(S, S, U), min_votes=1, ties="severe").categories == ()


@pytest.mark.parametrize(
    ("answers", "expected"),
    [((True, True, False), True), ((False, None), False), ((True, False), None), ((None,), None)],
)
def test_the_more_frequent_refusal_wins(answers: tuple[bool | None, ...], expected: bool | None) -> None:
    assert refusal_label([Vote(refusal=answer) for answer in answers]) is expected


def test_pairs_are_compared_where_both_answered() -> None:
    answers: dict[str, list[int | None]] = {"a": [1, 2, None], "b": [1, 3, 3], "c": [None, None, None]}
    assert pairwise(answers) == {"a / b": 0.5}


def test_kappa_is_that_of_a_worked_example() -> None:
    """The example of Fleiss' article as Wikipedia gives it: ten subjects, fourteen raters, five labels: 0.210."""
    table = (
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    )  # fmt: skip
    rows = [[label for label, number in enumerate(line) for _ in range(number)] for line in table]
    assert fleiss_kappa(rows) == pytest.approx(0.210, abs=0.0005)


@pytest.mark.parametrize("rows", [[], [["a"]], [["a", "a"], ["a", "a"]]])
def test_kappa_without_a_value_is_none(rows: list[list[str]]) -> None:
    assert fleiss_kappa(rows) is None


def test_full_agreement_on_different_labels_is_one() -> None:
    assert fleiss_kappa([["a", "a"], ["b", "b"]]) == pytest.approx(1.0)
