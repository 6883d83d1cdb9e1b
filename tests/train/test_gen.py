"""`streamward train gen`: a Gen guard learns its own instruction."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import streamward
from streamward.bundled.embedded import prepare_adapter
from streamward.data.jsonl import parse_row
from streamward.model.checkpoint import load_gen, save_checkpoint
from streamward.model.decoder import dense_hidden
from streamward.model.guard_model import CausalLM
from streamward.schema import RiskLevel, Side
from streamward.train.config import GenTrainConfig, SourceConfig
from streamward.train.gen import train
from streamward.train.gen_examples import AnswerWriter, GenExample, RefusalWeights, make_gen_example
from streamward.train.gen_task import answer_loss, collate_trees, score_answers
from streamward.train.stream import train as train_stream
from tests.train.tiny import CALM, MODEL_CONFIG, RISKY, config, guard_tokenizer, row

GEN_KEYS = ("inner_size", "head_lr")
CONFIG = GenTrainConfig(name="x", data_root=Path(), sources=(SourceConfig(file="x"),))
ROW = {
    "prompt": "Hi",
    "response": "No.",
    "prompt_label": "Safe",
    "response_label": "Unsafe",
    "categories": ["Violent", "Jailbreak"],
    "refusal": True,
}


def example(max_tokens: int = 400, **changes: object) -> GenExample:
    tokenizer = guard_tokenizer(is_gen=True)
    writer = AnswerWriter(tokenizer, CONFIG, refusals=RefusalWeights())
    sample = parse_row(ROW | changes, source="s")
    found = make_gen_example(tokenizer, sample, writer=writer, weight=1.0, max_tokens=max_tokens)
    assert found is not None
    return found


def text(ids: tuple[int, ...]) -> str:
    return bytes(byte for token in ids for byte in guard_tokenizer(is_gen=True).token_bytes(token)).decode(
        "utf-8", "replace"
    )


def answer(found: GenExample, side: Side) -> str:
    (branch,) = [branch for branch in found.branches if branch.side is side]
    return text(tuple(token.token_id for token in branch.answer))


def test_each_side_is_asked_and_answered_behind_a_common_beginning() -> None:
    found = example()
    assert text(found.trunk).startswith("<|im_start|>user\nHi<|im_end|>\n")
    assert "user's last message" in text(found.branches[0].ids)
    assert "assistant's last message" in text(found.branches[1].ids)
    assert "No." in text(found.branches[1].ids)
    assert answer(found, Side.PROMPT) == "Safety: Safe\nCategories: None<|im_end|>"
    assert answer(found, Side.RESPONSE) == "Safety: Unsafe\nCategories: Violent\nRefusal: Yes<|im_end|>"


def test_what_a_row_does_not_say_counts_nothing() -> None:
    found = example(response_label=None, refusal=False, prompt_label=None)
    (branch,) = found.branches
    words = {token.token_id for token in branch.answer if token.weight >= CONFIG.refusal_loss_weight}
    assert text(tuple(token.token_id for token in branch.answer if token.weight >= 0.5)) == " No"
    assert words


def test_an_unknown_category_counts_nothing() -> None:
    found = example(categories=[], response=None, prompt_label="Unsafe", response_label=None)
    (branch,) = found.branches
    assert text(tuple(token.token_id for token in branch.answer if token.weight >= 0.1)) == " Unsafe"


def test_refusals_and_compliances_weigh_the_same() -> None:
    rows = [parse_row(ROW | {"refusal": index == 0}, source="s") for index in range(4)]
    weights = RefusalWeights.balanced(rows)
    assert weights.yes * 1 == pytest.approx(weights.no * 3)


@pytest.mark.parametrize("changes", [{"prompt": "é" * 900}, {"response": "\U0001f600" * 300}, {"prompt": "x" * 300}])
def test_a_long_row_fits_and_keeps_its_beginning(changes: dict[str, str]) -> None:
    found = example(max_tokens=260, **changes)
    for branch in found.branches:
        assert len(found.trunk) + len(branch.ids) + len(branch.answer) <= 260
    assert text(found.trunk + found.branches[0].ids).startswith(f"<|im_start|>user\n{changes.get('prompt', 'Hi')[:20]}")


def tiny_lm(*, std: float = 0.02) -> CausalLM:
    torch.manual_seed(0)
    model = CausalLM(MODEL_CONFIG)
    torch.nn.init.normal_(model.decoder.embed.weight, std=std)
    return model


def test_a_branch_reads_what_it_would_read_alone() -> None:
    model, found = tiny_lm(), example()
    together = answer_loss(model, collate_trees([found], device=torch.device("cpu"))).total
    alone = sum(
        answer_loss(
            model,
            collate_trees([dataclasses.replace(found, branches=(branch,))], device=torch.device("cpu")),
        ).total
        for branch in found.branches
    )
    torch.testing.assert_close(together, alone)
    branch = found.branches[1]
    ids = torch.tensor([[*found.trunk, *branch.ids, *(token.token_id for token in branch.answer)]])
    logits = model.logits(dense_hidden(model.decoder, ids)[0])
    start = len(found.trunk) + len(branch.ids)
    expected = sum(
        -token.weight * logits[start + index - 1].log_softmax(0)[token.token_id]
        for index, token in enumerate(branch.answer)
    )
    found_alone = dataclasses.replace(found, branches=(branch,))
    torch.testing.assert_close(
        answer_loss(model, collate_trees([found_alone], device=torch.device("cpu"))).total, expected
    )


def test_the_answer_loss_of_a_fixed_batch_stays_what_it_was() -> None:
    batch = collate_trees([example(), example(prompt="Hello", response=None)], device=torch.device("cpu"))
    assert answer_loss(tiny_lm(), batch).total.item() == pytest.approx(79.47576, abs=1e-3)


def test_a_run_ends_in_a_guard_that_has_learnt(workplace: Path) -> None:
    rows = [row(index) | {"refusal": index % 4 == 1} for index in range(80)]
    for each in rows:
        each["response"] = f"No. {each['response']}" if each["refusal"] else each["response"]
    (workplace / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    save_checkpoint(tiny_lm(std=0.1).to(torch.bfloat16), workplace / "base")
    settings = {"frame_loss_weight": 0.01, "epochs": 6.0, "batch_tokens": 1024, "num_layers": 2}
    folder = train(config(workplace, "tiny-gen", without=GEN_KEYS, **settings))
    report = json.loads((folder / "report.json").read_text())
    assert report["held_out"]["prompt"]["all"]["f1"] > 0.9
    with streamward.load(folder) as guard:
        assert guard.moderate(prompt=f"500 {RISKY}").decision.action == "block"
        assert guard.moderate(prompt=f"501 {CALM}").decision.action == "allow"


def test_a_gen_guard_starts_from_a_stream_guard(workplace: Path) -> None:
    first = train_stream(config(workplace, "stream", epochs=0.5))
    keys = (*GEN_KEYS, "base", "num_layers", "lora")
    second = train(config(workplace, "gen", without=keys, init=str(first), epochs=0.1))
    assert json.loads((second / "config.json").read_text())["num_hidden_layers"] == 1


def test_levels_are_scored_as_the_guard_itself_scores_them(workplace: Path) -> None:
    folder = train(config(workplace, "tiny-gen", without=GEN_KEYS, epochs=0.5))
    tokenizer = guard_tokenizer(is_gen=True)
    writer = AnswerWriter(tokenizer, CONFIG, refusals=RefusalWeights())
    sample = parse_row(row(3), source="s")
    question = make_gen_example(tokenizer, sample, writer=writer, weight=1.0, max_tokens=400)
    assert question is not None
    model = load_gen(prepare_adapter(folder), dtype=torch.float32)
    scores = score_answers(model, [question], writer.level_tokens)
    with streamward.load(folder, dtype=torch.float32) as guard:
        found = guard.moderate(prompt=sample.prompt, response=sample.response)
    for score, judged in zip(scores, (found.prompt, found.response), strict=True):
        assert judged is not None
        assert score.unsafe == pytest.approx(judged.probabilities[RiskLevel.UNSAFE], abs=1e-3)
