import torch

from streamward.model.decoder import dense_hidden
from streamward.train.lora import add_lora, lora_modules, merge_lora
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
