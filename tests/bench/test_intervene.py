"""The benchmark of interventions: what is asked, and the figures of what came."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from streamward.bench.answer_writer import BatchedAssistant, WriteRequest, choose
from streamward.bench.intervene import BenchPrompt, ChangedAnswer, InterveneBench, read_prompts
from streamward.bench.intervene_config import CHECKED, UNGUARDED, InterveneBenchConfig, InterveneVariant, variants
from streamward.bench.intervene_quality import AnswerQuality
from streamward.bench.intervene_report import figures, markdown, plot
from streamward.bench.recorded_guard import RecordedGuard
from streamward.ladder import LadderAction
from tests.intervene.scripted_model import HashGuard

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
    release = InterveneVariant(LadderAction.REFUSE, 40).release()
    assert release is not None
    assert [step.action for step in release.ladder] == [LadderAction.REFUSE]


class ScriptedWriter:
    """Says `##` in half of its answers until it is asked the third time; counts what it wrote."""

    def __init__(self) -> None:
        self.requests: list[WriteRequest] = []

    def prompt_ids(self, prompt: str, *, answer: str = "") -> list[int]:
        return list(f"{prompt}|{answer}".encode())

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def write(self, requests):
        for number, request in enumerate(requests):
            self.requests.append(request)
            is_bad = bytes(request.ids).startswith(b"r") and request.seed < 3
            yield number, ["It ", "is. ", "So ", "## " if is_bad else "good", "."]


def bench(folder, **changes) -> tuple[list[ChangedAnswer], ScriptedWriter, RecordedGuard]:
    settings = {"num_risky": 2, "num_ordinary": 1, "hold_tokens": (4, 8), "attempts": (1, 3), **changes}
    writer, guard = ScriptedWriter(), RecordedGuard(HashGuard())  # type: ignore[arg-type]  # as they are used
    told: list[tuple[str, int, int]] = []
    run = InterveneBench(InterveneBenchConfig(**settings), folder, advance=lambda *each: told.append(each))
    found = run.run(guard, writer)  # type: ignore[arg-type]
    assert not told or told[-1][1] == told[-1][2]
    return found, writer, guard


@pytest.fixture
def prompts(monkeypatch):
    listed = [
        BenchPrompt("r1", "risky", "r one"),
        BenchPrompt("r2", "risky", "r two"),
        BenchPrompt("o", "ordinary", "o"),
    ]
    monkeypatch.setattr("streamward.bench.intervene.read_prompts", lambda config: listed)


def test_each_text_is_written_and_judged_once_for_all_variants(tmp_path, prompts):
    answers, writer, guard = bench(tmp_path)
    assert len(answers) == 3 * (2 + 2 * (2 + 2 * 2))
    asked = [(tuple(each.ids), each.seed) for each in writer.requests]
    assert len(set(asked)) == len(asked)
    judged = guard.num_judged
    alone, _, one = bench(tmp_path / "alone", hold_tokens=(4,), attempts=(1,))
    assert judged < len(answers) / len(alone) * one.num_judged
    by_name = {(each.variant, each.id): each for each in answers}
    assert by_name["regenerate-b4-n3", "r1"].text == "It is.It is.It is. So good."  # the writer begins anew each time
    assert by_name["regenerate-b4-n1", "r1"].finish_reason == "content_filter"
    assert {each.text for each in answers if each.id == "o"} == {"It is. So good."}
    assert by_name[UNGUARDED, "r1"].text == "It is. So ## ."


def test_variants_alone_give_the_answers_that_they_give_together(tmp_path, prompts):
    together = {(each.variant, each.id): each for each in bench(tmp_path / "all")[0]}
    for each in bench(tmp_path / "one", hold_tokens=(8,), attempts=(3,))[0]:
        assert together[each.variant, each.id] == each


def test_a_second_run_asks_only_what_is_missing_even_behind_half_a_line(tmp_path, prompts):
    whole, first, _ = bench(tmp_path)
    path = tmp_path / "answers.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]) + lines[-2][:20])
    again, writer, _ = bench(tmp_path)
    assert sorted(map(repr, again)) == sorted(map(repr, whole))
    assert first.requests
    assert not writer.requests


def test_a_draw_depends_on_seed_and_position_only():
    logits = np.zeros(50, np.float32)
    assert choose(logits, temperature=1.0, seed=1, position=2) == choose(logits, temperature=1.0, seed=1, position=2)
    drawn = {choose(logits, temperature=1.0, seed=seed, position=0) for seed in range(40)}
    assert len(drawn) > 10
    logits[7] = 3.0
    assert choose(logits, temperature=0, seed=1, position=0) == 7


@pytest.mark.slow
def test_the_writer_gives_the_same_answers_in_any_batch():
    requests = [WriteRequest([], 8, 0.7, seed) for seed in range(5)]
    found = []
    for batch in (1, 3):
        writer = BatchedAssistant(batch=batch)
        asked = [replace(each, ids=writer.prompt_ids(f"Say {number}")) for number, each in enumerate(requests)]
        found.append(dict(writer.write(asked)))
    assert found[0] == found[1]
    nll = writer.nll("Say 1", "".join(found[0][1]))
    assert nll is not None
    assert 0 < nll < 10
