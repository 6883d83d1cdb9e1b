import pytest
import torch

from streamward.errors import ConfigError
from streamward.model.decoder import dense_hidden
from streamward.train.lora import LoraLinear, add_lora, lora_modules, lowest_frozen, merge_lora
from tests.train.tiny import tiny_guard


def test_a_merged_adapter_computes_what_the_adapter_computed() -> None:
    decoder = tiny_guard().decoder
    add_lora(decoder, rank=4, alpha=8)
    for _, module in lora_modules(decoder):
        torch.nn.init.normal_(module.lora_b, std=0.1)
    ids = torch.arange(12).view(1, 12)
    with torch.no_grad():
        before = dense_hidden(decoder, ids)
        merge_lora(decoder)
        torch.testing.assert_close(dense_hidden(decoder, ids), before, rtol=1e-4, atol=1e-5)


def test_only_adapters_are_trained_in_the_decoder() -> None:
    decoder = tiny_guard().decoder
    add_lora(decoder, rank=4, alpha=8)
    trained = {name.rsplit(".", 1)[1] for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    assert trained == {"lora_a", "lora_b"}


def test_gradients_are_those_of_the_formula() -> None:
    layer = LoraLinear(torch.nn.Linear(6, 4, bias=False).double().requires_grad_(False), rank=2, alpha=6).double()
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    inputs = [x, layer.lora_a, layer.lora_b]
    formula = x @ layer.base.weight.T + 3 * x @ layer.lora_a.T @ layer.lora_b.T
    torch.testing.assert_close(layer(x), formula)
    upstream = torch.randn_like(formula)
    found = torch.autograd.grad(layer(x), inputs, upstream)
    torch.testing.assert_close(found, torch.autograd.grad(formula, inputs, upstream))


def test_frozen_layers_get_no_gradient_and_learn_again_afterwards() -> None:
    decoder = tiny_guard().decoder
    add_lora(decoder, rank=4, alpha=8)
    with lowest_frozen(decoder, 1):
        dense_hidden(decoder, torch.arange(12).view(1, 12)).sum().backward()
    lowest, *_, highest = [module.lora_b for _, module in lora_modules(decoder)]
    assert lowest.grad is None and lowest.requires_grad
    assert highest.grad is not None


def test_freezing_every_layer_is_refused() -> None:
    decoder = tiny_guard().decoder
    with pytest.raises(ConfigError, match="frozen_layers"), lowest_frozen(decoder, len(decoder.layers)):
        pass
