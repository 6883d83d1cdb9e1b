"""A guard and a tokenizer small enough to train in a test."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from streamward.model.config import (
    PUBLISHED_PROMPT_CATEGORIES,
    PUBLISHED_RESPONSE_CATEGORIES,
    PUBLISHED_RISK_LEVELS,
    GuardConfig,
    ModelConfig,
    SideLabels,
)
from streamward.model.guard_model import GuardModel

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
