"""`streamward evaluate` as a user meets it."""

import json

import pytest

from streamward.cli.main import main


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    try:
        code = main([str(each) for each in arguments])
    except SystemExit as stop:  # argparse
        code = int(str(stop.code or 0))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def bench(tmp_path):
    """Two small sets: one of the registry, one of the user's own."""
    folder = tmp_path / "bench"
    folder.mkdir()

    def row(number: int, label: str, word: str) -> dict[str, object]:
        prompt = f"{word} {number}"
        return {"id": str(number), "prompt": prompt, "prompt_label": label, "response_label": None, "native": {}}

    rows = [row(n, "Unsafe", "bomb") for n in range(6)] + [row(n, "Safe", "bread") for n in range(6, 12)]
    for name in ("xstest_prompts", "traffic"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


def report(folder) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_a_folder_is_evaluated_and_reported(capsys, bench, tmp_path):
    out = tmp_path / "out"
    code, printed, told = run(capsys, "evaluate", bench, "--baseline", "keyword", "--out", out)
    assert (code, printed) == (0, f"{out}\n")
    figures = "keyword list: prompts: F1 1.000 (mean of 2 sets), 0 of 12 harmless rows flagged (0.0 %)"
    assert f"{figures}; report: {out / 'report.md'}" in told
    assert sorted(path.name for path in out.iterdir()) == ["predictions", "report.html", "report.json", "report.md"]
    values = report(out)
    assert [each["name"] for each in values["sets"]] == ["xstest_prompts", "traffic"]
    assert values["sets"][0]["points"]["strict"]["f1"]["value"] == 1.0
    assert values["command"] == f"streamward evaluate {bench} --baseline keyword --out {out}"
    assert values["guard"]["identity"]
    assert {"python", "torch", "streamward"} <= values["versions"].keys()


def test_several_guards_are_compared(capsys, bench, tmp_path, monkeypatch):
    (tmp_path / "says_nothing.py").write_text("def judge(prompt, response):\n    return False\n")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    code, printed, _ = run(
        capsys, "evaluate", bench, "--guard", "says_nothing:judge", "--baseline", "keyword", "--out", out
    )
    assert code == 0
    assert printed.splitlines() == [str(out / "says-nothing-judge"), str(out / "keyword"), str(out)]
    (_, _), (name, p_value) = [(each["set"], each["p_value"]) for each in report_comparison(out)]
    assert name == "traffic (prompt)"
    assert p_value == pytest.approx(2 / 2**6)


def report_comparison(out):
    return json.loads((out / "comparison.json").read_text())["differences"]


def test_sets_and_rows_can_be_chosen(capsys, bench, tmp_path):
    out = tmp_path / "out"
    arguments = ("--baseline", "keyword", "--sets", "traffic", "--limit", 4, "--robustness", "--out", out)
    assert run(capsys, "evaluate", bench, *arguments)[0] == 0
    sets = report(out)["sets"]
    assert {each["name"] for each in sets} == {"traffic"}
    assert [each["rows"] for each in sets] == [4] * 11
    assert sets[0]["sampled_from"] == 12
    assert len(report(out)["perturbations"]) == 20


def test_reports_are_compared_and_tabled(capsys, bench, tmp_path):
    for name in ("a", "b"):
        run(capsys, "evaluate", bench, "--baseline", "keyword", "--out", tmp_path / name)
    code, _, _ = run(capsys, "evaluate", "compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "both")
    assert code == 0
    assert (tmp_path / "both" / "report.html").exists()
    code, printed, _ = run(capsys, "evaluate", "table", tmp_path / "a", "--baseline-report", tmp_path / "b")
    assert code == 0
    assert "| traffic (prompt) | 12 | 100.0 | 100.0 | 0.0 | 100.0 | - | 100.0 |" in printed


def test_the_sets_known_are_listed(capsys):
    code, printed, _ = run(capsys, "evaluate", "list")
    assert code == 0
    assert "toxicchat_test" in printed


def test_a_guard_that_judges_nothing_is_a_failure_that_is_told(capsys, bench, tmp_path, monkeypatch):
    (tmp_path / "always_fails.py").write_text("def judge(prompt, response):\n    raise RuntimeError(prompt)\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "evaluate", bench, "--guard", "always_fails:judge", "--out", tmp_path / "out")
    assert code == 1
    assert "rows without a judgement: 24 upstream_failed" in err
    assert "bomb" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "{bench}"], "--out is missing"),
        (["evaluate", "{bench}", "--out", "o", "--limit", "0"], "--limit is 0"),
        (["evaluate", "{bench}", "--out", "o", "--sets", "nothing"], "there is no set 'nothing'"),
        (["evaluate", "{bench}", "--out", "o", "--format", "chatty"], "there is no format 'chatty'"),
        (["evaluate", "{bench}", "--out", "o", "--guard", "no-such-guard"], "there is no guard 'no-such-guard'"),
        (["evaluate", "{bench}", "--out", "o", "--policy", "stern"], "policy 'stern' not found"),
        (["evaluate", "{bench}", "--out", "o", "--baseline", "tfidf"], "needs --baseline-train"),
        (["evaluate", "{bench}", "--out", "o", "--extra-body", "["], "not JSON"),
        (["evaluate", "{bench}/x", "--out", "o"], "is not a folder"),
        (["evaluate", "compare", "a", "--out", "o"], "two or more reports"),
        (["evaluate", "compare", "a", "b", "--out", "o"], "cannot be read as a report"),
        (["evaluate", "table"], "needs one report"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_judged(capsys, bench, monkeypatch, arguments, message):
    monkeypatch.chdir(bench)
    code, printed, err = run(capsys, *(each.format(bench=bench) for each in arguments))
    assert code in (1, 2)
    assert printed == ""
    assert message in err
    assert not (bench / "o" / "report.json").exists()
