"""Compiled operations change how long a step takes, and nothing else that matters."""

import shutil

import pytest
import torch

from streamward.errors import ConfigError
from streamward.model.layers import PLAIN_OPS, gelu_gated
from streamward.train.compiling import compiled_layers, sigmoid_gelu_gated
from streamward.train.stream_task import StreamTask
from tests.train.test_trainer import adapted_guard, config, examples

LONG = 300_000 // 16  # steps of 16 tokens
has_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def losses_and_gradients(*, compile: bool) -> tuple[list[float], list[torch.Tensor]]:
    model = adapted_guard()
    task = StreamTask(config(compile=compile), model, examples(), torch.device("cpu"))
    losses = []
    with compiled_layers(model.decoder, task.config, num_steps=1):
        for indices in ([0, 1, 2], [3], range(16)):  # other numbers of tokens
            loss = task.loss(indices).total
            loss.backward()
            losses.append(loss.item())
    return losses, [each.grad for each in model.parameters() if each.grad is not None]


@has_compiler
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of what torch does itself
def test_compiled_operations_give_the_same_losses_and_gradients() -> None:
    plain, plain_gradients = losses_and_gradients(compile=False)
    fast, gradients = losses_and_gradients(compile=True)
    assert fast == pytest.approx(plain, rel=1e-5)
    assert len(gradients) == len(plain_gradients) > 0
    for gradient, expected in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_the_sigmoid_form_is_the_gelu_of_gemma() -> None:
    gate_up = torch.linspace(-12, 12, 400, dtype=torch.float64).view(2, 200).requires_grad_()
    found, expected = sigmoid_gelu_gated(gate_up), gelu_gated(gate_up)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        *(torch.autograd.grad(each.sum(), gate_up)[0] for each in (found, expected)), rtol=1e-5, atol=1e-6
    )


@pytest.fixture
def broken_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> object:
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr("torch.compile", lambda *_, **__: fail)


@pytest.mark.usefixtures("broken_compiler")
def test_a_run_goes_on_with_plain_operations_and_says_so_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    decoder = adapted_guard().decoder
    with compiled_layers(decoder, config(), num_steps=LONG) as is_compiled:
        assert not is_compiled
        assert {layer.ops for layer in decoder.layers} == {PLAIN_OPS}
    (record,) = caplog.records
    assert vars(record)["reason"] == "no compiler"


@pytest.mark.usefixtures("broken_compiler")
def test_a_run_that_must_compile_ends_where_it_cannot() -> None:
    with (
        pytest.raises(ConfigError, match="torch cannot compile here: no compiler"),
        compiled_layers(adapted_guard().decoder, config(compile=True), num_steps=1),
    ):
        pass


@pytest.mark.usefixtures("broken_compiler")
@pytest.mark.parametrize(("setting", "num_steps"), [("auto", LONG - 1), (False, LONG)])
def test_short_runs_and_those_that_say_so_are_not_compiled(
    setting: object, num_steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    with compiled_layers(adapted_guard().decoder, config(compile=setting), num_steps=num_steps) as is_compiled:
        assert not is_compiled
    assert not caplog.records


def test_a_decoder_is_as_before_when_training_ends_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", lambda op, **_: lambda *args: op(*args))
    decoder = adapted_guard().decoder
    with pytest.raises(KeyboardInterrupt), compiled_layers(decoder, config(compile=True), num_steps=1) as is_compiled:
        assert is_compiled
        assert PLAIN_OPS not in {layer.ops for layer in decoder.layers}
        raise KeyboardInterrupt
    assert {layer.ops for layer in decoder.layers} == {PLAIN_OPS}
