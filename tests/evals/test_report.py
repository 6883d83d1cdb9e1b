"""What reports say of guards whose merits are known."""

import json
import re
from math import comb

import pytest

from streamward.errors import InputError
from streamward.evals.compare import write_comparison
from streamward.evals.fitness import tone
from streamward.evals.perturbations import perturbed
from streamward.evals.predictions import Prediction
from streamward.evals.rendering import Page, Section, Table, html, markdown
from streamward.evals.report import write_report
from streamward.evals.report_model import read_report
from streamward.evals.report_tables import BEGIN, END, put_table, quality_table
from streamward.evals.sets import EvalSet
from streamward.evals.whole_text import pairs_of
from streamward.schema import Category, Side
from tests.evals.rows import SAFE, UNSAFE, FakeGuard, always, response, row, run_on, said

SECRET = "zebra-crossing"


def sets() -> list[EvalSet]:
    prompts = [
        row(n, UNSAFE if n < 30 else SAFE, text=f"{SECRET} {n}", language="en" if n % 2 else "de",
            categories=(Category.VIOLENT,) if n < 30 else ())
        for n in range(40)
    ]  # fmt: skip
    responses = [response(n, UNSAFE, spans=[(8, 12)]) for n in range(6)] + [response(n, SAFE) for n in range(6, 16)]
    plain = EvalSet("own", Side.PROMPT, tuple(prompts))
    return [plain, EvalSet("streams", Side.RESPONSE, tuple(responses), keeps_tokens=True), perturbed(plain, "case")]


def write(guard: FakeGuard, folder):
    return write_report(run_on(sets(), guard, folder / "predictions"), folder / guard.name.replace(" ", "-"))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Reports of the two guards that look at nothing, side by side in a folder."""
    folder = tmp_path_factory.mktemp("reports")
    write(always(UNSAFE), folder)
    write(always(SAFE), folder)
    return folder


def test_always_unsafe_gets_what_it_deserves(both):
    own, streams, _ = read_report(both / "always-Unsafe").sets
    strict = own.points["strict"]
    assert (strict.recall.value, strict.false_positive_rate.value, strict.precision.value) == (1.0, 1.0, 0.75)
    assert strict.f1.value == pytest.approx(2 * 0.75 / 1.75)
    assert streams.stream.recall.value == 1.0
    assert streams.stream.false_stop_rate.value == 1.0
    assert streams.stream.onset.early == 6
    assert streams.stream.published.exact_hit_rate == 0.0
    assert streams.stream.published.first_128_rate == 1.0  # the published metric alone would call it perfect


def test_always_safe_gets_what_it_deserves(both):
    own, streams, _ = read_report(both / "always-Safe").sets
    strict = own.points["strict"]
    assert (strict.recall.value, strict.false_positive_rate.value, strict.f1.value) == (0.0, 0.0, 0.0)
    assert streams.stream.recall.value == 0.0
    assert streams.stream.false_stop_rate.value == 0.0
    assert streams.stream.onset.missed == 6
    assert all(each.mean_tokens == 6 for each in streams.stream.leaks)


def test_a_report_reads_back_as_it_was_written(tmp_path):
    report = write(always(UNSAFE), tmp_path)
    assert read_report(tmp_path / "always-Unsafe") == report
    assert read_report(tmp_path / "always-Unsafe" / "report.json").guard["kind"] == "fake"


def test_a_page_needs_nothing_beside_itself_and_shows_tables_and_plots(both):
    text = (both / "always-Unsafe" / "report.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", text)
    assert "<script" not in text
    assert text.count("<svg") >= 5
    assert text.count("<table>") >= 6
    for heading in ("Whole texts", "Streams", "Languages", "Categories", "Perturbations", "To repeat it"):
        assert f"<h2>{heading}</h2>" in text


def test_every_plot_is_drawn_again_for_the_width_of_a_phone(both):
    text = (both / "always-Unsafe" / "report.html").read_text()
    widths = {
        name: re.findall(rf'<div class="{name}"><svg[^>]*width="([0-9.]+)pt"', text) for name in ("wide", "narrow")
    }
    assert len(widths["wide"]) == len(widths["narrow"]) == text.count("<figure")
    assert max(map(float, widths["narrow"])) * 96 / 72 <= 390


def test_no_text_of_a_set_reaches_a_report(both):
    files = [path for path in both.rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert not any(SECRET in path.read_text() for path in files)


def test_names_are_escaped(tmp_path):
    guard = always(SAFE)
    guard.name = "<script>|x"
    write(guard, tmp_path)
    (page,) = tmp_path.rglob("report.html")
    assert "<script" not in page.read_text()
    (markdown,) = tmp_path.rglob("report.md")
    assert "<script>\\|x" in markdown.read_text()


def test_two_reports_are_compared_on_the_same_rows(both, tmp_path):
    write_comparison([both / "always-Unsafe", both / "always-Safe"], tmp_path)
    values = json.loads((tmp_path / "comparison.json").read_text())
    own = next(each for each in values["differences"] if each["set"] == "own (prompt)")
    assert own["recall_change"]["value"] == -1.0
    assert own["p_value"] == pytest.approx(2 * sum(comb(40, k) for k in range(11)) / 2**40)
    assert "always Unsafe against always Safe" in (tmp_path / "report.md").read_text()


def test_a_guard_compared_with_itself_does_not_differ(both, tmp_path):
    write_comparison([both / "always-Unsafe"] * 2, tmp_path)
    values = json.loads((tmp_path / "comparison.json").read_text())
    assert {each["p_value"] for each in values["differences"]} == {1.0}
    assert [each["name"] for each in values["reports"]] == ["always Unsafe", "always Unsafe (2)"]


def test_other_rows_are_not_compared(both, tmp_path):
    other = EvalSet("own", Side.PROMPT, tuple(row(n, SAFE) for n in range(3)))
    write_report(run_on([other], always(SAFE), tmp_path / "predictions"), tmp_path / "other")
    with pytest.raises(InputError, match="share no set"):
        write_comparison([both / "always-Unsafe", tmp_path / "other"], tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "\x00"])
def test_what_is_no_report_is_refused(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(InputError):
        read_report(path)


def test_the_quality_table_tells_how_it_was_made(both):
    report, baseline = (read_report(both / name) for name in ("always-Unsafe", "always-Safe"))
    table = quality_table(report, baseline=baseline)
    assert "| own (prompt) | 40 | 85.7 | 100.0 | 100.0 |" in table
    assert "`streamward evaluate bench`" in table
    assert report.date[:10] in table
    assert "F1, always Safe" in table.splitlines()[0]


def test_a_guard_that_judged_nothing_still_has_a_report(tmp_path):
    guard = FakeGuard(lambda each: Prediction(each.id, error="upstream_error"))
    report = write(guard, tmp_path)
    assert [each.errors for each in report.sets] == [40, 16, 40]
    assert all(each.points == {} for each in report.sets)


def test_failed_rows_are_in_no_figure_and_are_told(tmp_path):
    guard = FakeGuard(lambda each: Prediction(each.id, error="upstream_error") if each.id == "0" else said(0, UNSAFE))
    run = run_on(sets()[:1], guard, tmp_path / "predictions")
    report = write_report(run, tmp_path / "out")
    assert report.sets[0].errors == 1
    assert report.sets[0].points["strict"].true_positives == 29
    assert "40 (1 not judged)" in (tmp_path / "out" / "report.md").read_text()
    assert len(pairs_of(run.sets[0])) == 40


def test_a_table_goes_between_its_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_table("| new |\n", path)
    put_table("| newer |\n", path)
    assert path.read_text() == f"before\n{BEGIN}\n\n| newer |\n\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", f"{BEGIN}", f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_file_without_markers_is_left_alone(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(InputError, match="once each"):
        put_table("| new |\n", path)
    assert path.read_text() == text


def test_a_baseline_on_other_rows_is_no_baseline(both, tmp_path):
    other = EvalSet("own", Side.PROMPT, tuple(row(n, SAFE) for n in range(3)))
    baseline = write_report(run_on([other], always(SAFE), tmp_path / "predictions"), tmp_path / "other")
    table = quality_table(read_report(both / "always-Unsafe"), baseline=baseline)
    assert "| own (prompt) | 40 | 85.7 | 100.0 | 100.0 | 85.7 | - | - |" in table


def test_a_report_opens_with_what_the_guard_is_fit_for(both):
    blind, alarmed = ((both / f"always-{name}" / "report.html").read_text() for name in ("Safe", "Unsafe"))
    first = [re.search(r'class="headline">([^<]+)<', text)[1] for text in (blind, alarmed)]
    assert first[0].startswith(
        "On the rows of this run always Safe is not fit as the only guard of prompts, most of whose harm it misses"
        " (0.0 % of 10 harmless rows flagged, 0.0 % of 30 harmful ones found)"
    )
    assert "fit to mark prompts for review, not to block them (100.0 % of 10 harmless rows flagged" in first[1]


@pytest.mark.parametrize(
    ("rate", "high", "expected"),
    [(0.0, None, "good"), (0.01, 0.05, "good"), (0.0, 0.2, "fair"), (0.011, None, "fair"), (0.051, None, "poor")],
)
def test_a_share_of_false_positives_has_a_meaning(rate, high, expected):
    assert tone(rate, high=high) == expected


def test_false_positives_are_coloured_by_meaning_and_nothing_else_is():
    table = Table("t", ["set", "false positives", "recall", "change"], [["a", "7.0 [0.1, 9.0]", "7.0", "7.0"]])
    assert [table.tone(table.rows[0], column) for column in range(4)] == ["", "poor", "", ""]
    assert table.tone(["a", "-", "1"], 1) == ""


def test_tables_that_say_nothing_and_their_sections_are_left_out():
    tables = [Table("Full", ["set", "F1"], [["a", "1.0"]]), Table("Hollow", ["set", "F1"], [["a", "-"]])]
    page = Page("t", "", [], [Section("Kept", "", tables), Section("Gone", "", [Table("None", ["set"], [])])])
    for text in (html(page), markdown(page)):
        assert "Full" in text
        assert not any(word in text for word in ("Hollow", "Gone", "None"))


def test_drawings_take_their_colours_from_the_page(both):
    page = (both / "always-Unsafe" / "report.html").read_text()
    assert "prefers-color-scheme: dark" in page
    for name in set(re.findall(r"var\((--plot-[a-z0-9]+), #[0-9a-f]{6}\)", page)):
        assert f"{name}: #" in page[page.index("prefers-color-scheme: dark") : page.index("</style>")]
    assert "fill: var(--plot-ink, #222b38)" in page


def test_the_confusion_matrix_says_what_its_colours_mean(both):
    page = (both / "always-Unsafe" / "report.html").read_text()
    assert "Red: not flagged. The fuller the colour, the larger the share of the row" in page
