"""Our decoder gives the hidden states and logits of transformers' reference forward."""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from streamward.bundled.base import prepare_base
from streamward.engine.torch_attention import AttentionMetadata, KVCache, PagedAttention
from streamward.errors import CheckpointError
from streamward.model.checkpoint import load_gen
from streamward.model.decoder import Decoder, dense_hidden
from streamward.model.guard_model import CausalLM
from streamward.model.packing import pack_linears

TOLERANCE = 1e-4
SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "hidden_size": 96},
    "one key head": {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "hidden_size": 64},
    "ungrouped": {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "hidden_size": 64},
    "wide heads": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 64},
}
FAMILIES: dict[str, tuple[Any, Any]] = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM),
}
GEMMA_KEYS: dict[str, Any] = {  # two layers that slide, one that does not
    "sliding_window": 40,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window_pattern": 3,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
        "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
    },
}


def random_reference(family: str, **keys: Any) -> transformers.PreTrainedModel:
    """Three layers whose weights, norms among them, are far from their initial values."""
    config_class, model_class = FAMILIES[family]
    common: dict[str, Any] = {
        "vocab_size": 120,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
        "attn_implementation": "eager",
    }
    if family == "gemma3_text":
        common |= {**GEMMA_KEYS, "query_pre_attn_scalar": keys["head_dim"]}
    usual_norm = 0.0 if family == "gemma3_text" else 1.0  # Gemma's norms are stored as the difference from 1
    config: PretrainedConfig = config_class(**{**common, **keys})
    torch.manual_seed(3)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            scaled = usual_norm + 0.3 * noise if parameter.dim() == 1 else noise * parameter.shape[1] ** -0.5
            parameter.copy_(scaled)
    return model


def random_batch(vocab_size: int, *, length: int, batch_size: int = 3) -> Tensor:
    return torch.randint(0, vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(length))


@torch.inference_mode()
def difference(reference: transformers.PreTrainedModel, ours: CausalLM, ids_BS: Tensor) -> tuple[float, float]:
    """Largest absolute differences of hidden states and of logits."""
    expected = reference(ids_BS, output_hidden_states=True)
    hidden_BSD = dense_hidden(ours.decoder, ids_BS)
    logits_TV = ours.logits(hidden_BSD.flatten(0, 1))
    return (
        float((hidden_BSD - expected.hidden_states[-1]).abs().max()),
        float((logits_TV - expected.logits.flatten(0, 1)).abs().max()),
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_random_checkpoints_give_the_reference_logits(tmp_path: Path, family: str, shape: str, is_tied: bool) -> None:
    reference = random_reference(family, tie_word_embeddings=is_tied, **SHAPES[shape])
    reference.save_pretrained(tmp_path)
    ours = load_gen(tmp_path, dtype=torch.float32)
    hidden, logits = difference(reference, ours, random_batch(120, length=70))
    assert hidden <= TOLERANCE
    assert logits <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_position_is_rotated_as_in_the_reference(tmp_path: Path, family: str) -> None:
    reference = random_reference(family, **SHAPES["grouped"])
    reference.save_pretrained(tmp_path)
    ours = load_gen(tmp_path, dtype=torch.float32)
    assert max(difference(reference, ours, random_batch(120, length=256, batch_size=1))) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_sharded_checkpoints_of_transformers_are_read(tmp_path: Path, family: str) -> None:
    reference = random_reference(family, **SHAPES["grouped"])
    reference.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours = load_gen(tmp_path, dtype=torch.float32)
    assert max(difference(reference, ours, random_batch(120, length=20))) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_rope_written_in_the_old_spelling_is_the_same(tmp_path: Path, family: str) -> None:
    reference = random_reference(family, **SHAPES["grouped"])
    reference.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    if "sliding_attention" in parameters:
        config["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
    config["rope_theta"] = parameters.get("full_attention", parameters)["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = load_gen(tmp_path, dtype=torch.float32)
    assert max(difference(reference, ours, random_batch(120, length=20))) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_checkpoints_stay_near_the_float32_reference(tmp_path: Path, family: str) -> None:
    random_reference(family, **SHAPES["grouped"]).bfloat16().save_pretrained(tmp_path)
    reference = FAMILIES[family][1].from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids_BS = random_batch(120, length=40)
    assert max(difference(reference, load_gen(tmp_path, dtype=torch.float32), ids_BS)) <= TOLERANCE
    assert difference(reference, load_gen(tmp_path, dtype=torch.bfloat16), ids_BS)[1] < 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_weights_give_the_reference_logits(tmp_path: Path, family: str) -> None:
    reference = random_reference(family, **SHAPES["grouped"])
    reference.save_pretrained(tmp_path)
    ours = load_gen(tmp_path, dtype=torch.float32)
    pack_linears(ours)
    assert max(difference(reference, ours, random_batch(120, length=70))) <= TOLERANCE


@torch.inference_mode()
def paged_hidden(decoder: Decoder, ids: list[int], *, cuts: list[int]) -> Tensor:
    """Read a sequence in chunks, its slots scattered over the cache."""
    cache = KVCache(decoder.config, num_slots=2 * len(ids), dtype=torch.float32, device=torch.device("cpu"))
    slots = torch.randperm(2 * len(ids), generator=torch.Generator().manual_seed(1))[: len(ids)]
    hidden: list[Tensor] = []
    for start, end in pairwise([0, *cuts, len(ids)]):
        attend = PagedAttention(
            decoder.config,
            cache,
            new_slots_T=slots[start:end],
            parts=[AttentionMetadata(slice(0, end - start), slots[:end], end)],
        )
        hidden.append(decoder(torch.tensor(ids[start:end]), torch.arange(start, end), attend))
    return torch.cat(hidden)


@pytest.mark.parametrize("family", FAMILIES)
def test_paged_attention_in_chunks_gives_the_reference_hidden_states(tmp_path: Path, family: str) -> None:
    reference = random_reference(family, **SHAPES["grouped"])
    reference.save_pretrained(tmp_path)
    ours = load_gen(tmp_path, dtype=torch.float32)
    ids_BS = random_batch(120, length=250, batch_size=1)
    cuts = sorted(random.Random(2).sample(range(1, 80), 12))  # the last chunk is longer than one part of attention
    with torch.inference_mode():
        expected = reference(ids_BS, output_hidden_states=True).hidden_states[-1][0]
    actual = paged_hidden(ours.decoder, ids_BS[0].tolist(), cuts=cuts)
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


def unsupported_configs() -> dict[str, Any]:
    small = {"vocab_size": 40, "intermediate_size": 32, "num_hidden_layers": 2, **SHAPES["ungrouped"]}
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return {
        "sliding window": Qwen3Config(use_sliding_window=True, sliding_window=8, max_window_layers=1, **small),
        "sliding layers": Qwen3Config(layer_types=["full_attention", "sliding_attention"], **small),
        "yarn": Qwen3Config(rope_parameters=yarn, **small),
        "linear": LlamaConfig(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}, **small),
        "llama3": LlamaConfig(rope_parameters=llama3, **small),
        "attention bias": Qwen3Config(attention_bias=True, **small),
        "mlp bias": LlamaConfig(mlp_bias=True, **small),
        "activation": LlamaConfig(hidden_act="gelu", **small),
    }


@pytest.mark.parametrize("feature", list(unsupported_configs()))
def test_features_the_decoder_lacks_are_refused_never_ignored(tmp_path: Path, feature: str) -> None:
    config = unsupported_configs()[feature]
    model_class = Qwen3ForCausalLM if isinstance(config, Qwen3Config) else LlamaForCausalLM
    model_class(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json: .* supported"):
        load_gen(tmp_path, dtype=torch.float32)


def test_the_embedded_base_gives_the_reference_logits() -> None:
    folder = prepare_base()
    reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ours = load_gen(folder, dtype=torch.float32)
    ids_BS = random_batch(49152, length=24, batch_size=2)
    assert difference(reference, ours, ids_BS)[1] <= TOLERANCE
