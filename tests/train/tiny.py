"""A guard and a tokenizer small enough to train in a test."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from streamward.bundled.embedded import template_file
from streamward.model.config import ModelConfig
from streamward.model.guard_config import (
    PUBLISHED_PROMPT_CATEGORIES,
    PUBLISHED_RESPONSE_CATEGORIES,
    PUBLISHED_RISK_LEVELS,
    GuardConfig,
    SideLabels,
)
from streamward.model.guard_model import GuardModel
from streamward.tokenizer import GuardTokenizer

RISKY, CALM = "hurt them", "bake bread"
GUARD_CONFIG = GuardConfig(
    inner_size=16,
    prompt=SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_PROMPT_CATEGORIES),
    response=SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_RESPONSE_CATEGORIES),
)
MODEL_CONFIG = ModelConfig(
    vocab_size=300,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    rope_theta=10000.0,
    rms_norm_eps=1e-6,
    max_positions=512,
    has_tied_embeddings=True,
    has_qk_norm=False,
)


def tiny_guard() -> GuardModel:
    """Two layers, random weights, always the same."""
    torch.manual_seed(0)
    return GuardModel(MODEL_CONFIG, GUARD_CONFIG)


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and the chat markers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    markers = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in markers])
    tokenizer.encode_special_tokens = True
    return tokenizer


def guard_tokenizer(*, is_gen: bool = False) -> GuardTokenizer:
    """The same under the template of our own guards."""
    return GuardTokenizer(byte_tokenizer(), template_file(is_gen=is_gen).read_text(encoding="utf-8"))


def row(index: int) -> dict[str, object]:
    """Every other row is unsafe on both sides; the others are safe."""
    is_risky = index % 2 == 0
    label = "Unsafe" if is_risky else "Safe"
    words = RISKY if is_risky else CALM
    return {
        "id": str(index),
        "lang": "en",
        "prompt": f"{index} {words}",
        "response": f"{words} {index}",
        "prompt_label": label,
        "response_label": label,
        "categories": ["Violent"] if is_risky else [],
    }


def config(workplace: Path, name: str, *, without: tuple[str, ...] = (), **changes: object) -> Path:
    """Write the TOML of a run over the tiny base; `without` leaves keys out."""
    values = {
        "name": name,
        "base": str(workplace / "base"),
        "num_layers": 1,
        "inner_size": 16,
        "data_root": str(workplace),
        "output_root": str(workplace / "runs"),
        "batch_tokens": 512,
        "epochs": 6.0,
        "lr": 0.01,
        "head_lr": 0.02,
        "warmup_steps": 2,
        "validation_fraction": 0.2,
        "device": "cpu",
        "cues.refuse": False,  # the rows of these tests are made of a few words
        **changes,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in without]
    lora = [] if "lora" in without else ["[lora]", "rank = 4", "alpha = 8.0"]
    path = workplace / f"{name}.toml"
    path.write_text("\n".join([*lines, *lora, "[[sources]]", 'file = "rows.jsonl"', ""]))
    return path
