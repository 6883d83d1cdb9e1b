"""A Stream guard small enough for tests, with random weights in float32."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.torch_runner import TorchModelRunner
from streamward.model.config import ModelConfig
from streamward.model.guard_config import (
    PUBLISHED_PROMPT_CATEGORIES,
    PUBLISHED_RESPONSE_CATEGORIES,
    PUBLISHED_RISK_LEVELS,
    GuardConfig,
    SideLabels,
)
from streamward.model.guard_model import GuardModel
from streamward.moderation.engine_worker import EngineWorker
from streamward.moderation.stream_guard import StreamGuard
from streamward.tokenizer import GuardTokenizer

MARKERS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """One token a byte, some merges, and the chat markers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("in", "g"), ("e", "r"), ("Ġ", "a"), ("l", "l")]
    vocabulary = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS])
    return tokenizer


def guard_tokenizer() -> GuardTokenizer:
    """The same under a template with room for reasoning."""
    return GuardTokenizer(byte_tokenizer(), TEMPLATE)


def random_model(*, window_tokens: int | None = None, seed: int = 0) -> GuardModel:
    """Two layers whose random heads are sharp enough that levels differ from token to token."""
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=288,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=48,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        max_positions=4096,
        has_tied_embeddings=True,
        has_qk_norm=True,
    )
    labels = (
        SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_PROMPT_CATEGORIES),
        SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_RESPONSE_CATEGORIES),
    )
    model = GuardModel(config, GuardConfig(16, *labels, window_tokens=window_tokens))
    for heads in (model.prompt_heads, model.response_heads):
        torch.nn.init.normal_(heads.risk.get_parameter("weight"), std=1.0)
    return model.eval()


def stream_guard(*, window_tokens: int | None = None, **limits: int) -> StreamGuard:
    """A guard over its own engine; `limits` are those of `EngineConfig`."""
    config = EngineConfig.model_validate({"page_tokens": 16, "kv_cache_bytes": 2**24, **limits})
    engine = Engine(config, TorchModelRunner(random_model(window_tokens=window_tokens), config))
    return StreamGuard(guard_tokenizer(), EngineWorker(engine))
