from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from streamward.model.guard_model import GuardModel
from streamward.schema import RiskLevel, Side
from streamward.train.config import SourceConfig, StreamTrainConfig
from streamward.train.examples import Example, TokenTarget
from streamward.train.lora import add_lora
from streamward.train.stream_task import StreamTask
from streamward.train.trainer import STATE_FILE, Loss, Trainer, trained_tensors
from tests.train.tiny import tiny_guard


def config(**changes: object) -> StreamTrainConfig:
    values = {
        "name": "tiny",
        "data_root": Path(),
        "sources": (SourceConfig(file="none.jsonl"),),
        "batch_tokens": 16,
        "warmup_steps": 2,
        "lr": 0.01,
        "head_lr": 0.01,
        "epochs": 8.0,
        "checkpoint_minutes": 1e-9,
    }
    return StreamTrainConfig(**(values | changes))  # type: ignore[arg-type]


def examples() -> list[Example]:
    """Rows that begin with token 1 are unsafe, with token 2 safe."""
    levels = (RiskLevel.UNSAFE, RiskLevel.SAFE)
    return [
        Example((1 + index % 2, 10 + index, 5), (TokenTarget(Side.PROMPT, 2, levels[index % 2], 1.0),), 1.0, "made")
        for index in range(16)
    ]


def adapted_guard() -> GuardModel:
    model = tiny_guard()
    add_lora(model.decoder, rank=4, alpha=8)
    return model


def trainer(settings: StreamTrainConfig, folder: Path) -> Trainer:
    task = StreamTask(settings, adapted_guard(), examples(), torch.device("cpu"))
    return Trainer(settings, task=task, folder=folder)


def test_training_learns_what_separates_the_rows(tmp_path: Path) -> None:
    run, rows = trainer(config(), tmp_path), range(len(examples()))
    first = run.task.loss(rows).total.item()
    run.run()
    assert run.task.loss(rows).total.item() < first / 4


def test_a_run_cut_in_two_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trainer(config(), tmp_path / "whole")
    whole.run()
    interrupted = trainer(config(), tmp_path / "cut")
    loss = StreamTask.loss

    def fail_at_step_16(task: StreamTask, indices: Sequence[int]) -> Loss:
        if interrupted.step == 16:
            raise KeyboardInterrupt
        return loss(task, indices)

    with monkeypatch.context() as patch:
        patch.setattr(StreamTask, "loss", fail_at_step_16)
        with pytest.raises(KeyboardInterrupt):
            interrupted.run()
    second = trainer(config(), tmp_path / "cut")
    second.run()
    expected = trained_tensors(whole.task.model)
    for name, tensor in trained_tensors(second.task.model).items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


def test_changed_settings_start_afresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(config(), tmp_path).save()
    changed = trainer(config(lr=0.02), tmp_path)
    changed.run()
    assert changed.step == changed.num_steps
    assert "settings changed" in caplog.text


@pytest.mark.parametrize(("weight", "starts_afresh"), [(0.0, False), (0.5, True)])
def test_a_state_with_a_setting_that_no_longer_exists_goes_on_if_it_changed_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, weight: float, starts_afresh: bool
) -> None:
    trainer(config(), tmp_path).save()
    path = tmp_path / STATE_FILE
    state = torch.load(path, weights_only=True)
    state["config"] |= {"mil_loss_weight": weight, "prefix_fraction": 0.0, "long_rows": "cut"}
    torch.save(state, path)
    trainer(config(), tmp_path).run()
    assert ("settings changed" in caplog.text) is starts_afresh


@pytest.mark.parametrize(("warmup_steps", "is_told"), [(0, False), (3, True), (50, True)])
def test_a_run_that_ends_within_its_warmup_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, warmup_steps: int, is_told: bool
) -> None:
    run = trainer(config(warmup_steps=warmup_steps, epochs=1.0, batch_tokens=18), tmp_path)
    assert run.num_steps == 3
    told = [record.getMessage() for record in caplog.records]
    assert any(f"3 steps, and warmup_steps is {warmup_steps}" in text for text in told) == is_told
