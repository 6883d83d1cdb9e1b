"""The benchmark of interventions: what is asked, and the figures of what came."""

from collections import Counter

import pytest

from streamward.bench.intervene import BenchPrompt, ChangedAnswer, read_prompts, to_toml
from streamward.bench.intervene_config import CHECKED, InterveneBenchConfig, InterveneVariant, variants
from streamward.bench.intervene_quality import AnswerQuality
from streamward.bench.intervene_report import figures, markdown, plot
from streamward.ladder import LadderAction
from streamward.policy import Policy

PROMPTS = [BenchPrompt("r1", "risky", "a"), BenchPrompt("r2", "risky", "b"), BenchPrompt("o1", "ordinary", "c")]
NAME = "regenerate-b40-n3"


def record(**fields):
    return {"wait_tokens": 50, "dropped_tokens": 20, **fields}


def answers() -> list[ChangedAnswer]:
    return [
        ChangedAnswer(CHECKED, "r1", "Fine", "content_filter", [], 1),
        ChangedAnswer(CHECKED, "r2", "All of it.", "stop", [], 1),
        ChangedAnswer(CHECKED, "o1", "Hello.", "stop", [], 1),
        ChangedAnswer(NAME, "r1", "Fine. Good.", "stop", [record(), record(wait_tokens=70)], 3),
        ChangedAnswer(NAME, "r2", "All of it.", "stop", [], 1),
        ChangedAnswer(NAME, "o1", "Hello.", "stop", [], 1),
    ]


def quality() -> dict[tuple[str, str], AnswerQuality]:
    levels = {"Fine": "Unsafe", "Fine. Good.": "Controversial"}
    found = {}
    for each in answers():
        level = levels.get(each.text, "Safe")
        found[each.id, each.text] = AnswerQuality(each.id, each.text, level, each.text == "Hello.", 1.0)
    return found


def test_there_are_200_prompts_of_each_kind():
    prompts = read_prompts(InterveneBenchConfig())
    assert Counter(prompt.kind for prompt in prompts) == {"risky": 200, "ordinary": 200}
    assert len({prompt.id for prompt in prompts}) == 400
    few = read_prompts(InterveneBenchConfig(num_risky=3, num_ordinary=0))
    assert [prompt.kind for prompt in few] == ["risky"] * 3


def test_every_ladder_buffer_and_number_of_attempts_is_a_variant():
    found = list(variants(InterveneBenchConfig()))
    assert len(found) == 1 + 4 * (2 + 2 * 3)
    assert len({variant.name for variant in found}) == len(found)
    assert NAME in {variant.name for variant in found}


@pytest.mark.parametrize("variant", list(variants(InterveneBenchConfig(hold_tokens=(20,), attempts=(1, 5)))), ids=str)
def test_the_policy_of_a_variant_is_what_its_file_says(variant: InterveneVariant, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(to_toml(variant.policy()))
    assert Policy.load(path) == variant.policy()


def test_figures_are_shares_of_answers_and_percentiles_of_waits():
    found = {(each.variant, each.kind): each for each in figures(answers(), PROMPTS, quality())}
    checked, changed = found[CHECKED, "risky"], found[NAME, "risky"]
    assert (checked.unsafe, checked.unsafe_or_controversial, checked.finished) == (0.5, 0.5, 0.5)
    assert (changed.unsafe, changed.unsafe_or_controversial, changed.finished) == (0.0, 0.5, 1.0)
    assert (changed.changed, changed.calls, changed.dropped_tokens) == (0.5, 2.0, 40.0)
    assert (changed.wait_tokens_p50, changed.perplexity) == (60.0, 2.72)
    assert (changed.as_checked, changed.as_checked_unflagged) == (0.5, 1.0)
    assert found[NAME, "ordinary"].refused == 1.0


def test_the_report_has_a_table_of_each_kind_and_plots(tmp_path):
    pytest.importorskip("matplotlib")
    found = figures(answers(), PROMPTS, quality())
    text = markdown(found)
    assert f"| {NAME} | 2 | 0.0 | 50.0 | 100.0 |" in text
    assert text.index("## Risky prompts") < text.index("## Ordinary prompts")
    plot(found, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 1000


def test_a_first_step_that_ends_an_answer_stands_alone():
    policy = InterveneVariant(LadderAction.REFUSE, 40).policy()
    assert policy.release is not None
    assert [step.action for step in policy.release.ladder] == [LadderAction.REFUSE]
