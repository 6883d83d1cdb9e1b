"""Random guards in the published layout, of a shape that vLLM's attention takes."""

from pathlib import Path

import torch

from streamward.model.checkpoint import save_checkpoint
from streamward.model.config import ModelConfig
from streamward.model.guard_model import GuardModel
from tests.engine.harness import GUARD_CONFIG
from tests.moderation.guards import TEMPLATE, byte_tokenizer

VOCAB_SIZE = 288


def random_guard(*, has_qk_norm: bool = True, max_positions: int = 512) -> GuardModel:
    """Two layers, weights large enough that every token of the context matters."""
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        intermediate_size=96,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        max_positions=max_positions,
        has_tied_embeddings=True,
        has_qk_norm=has_qk_norm,
    )
    torch.manual_seed(7)
    guard = GuardModel(config, GUARD_CONFIG)
    for parameter in guard.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = 1 + 0.3 * noise if parameter.dim() == 1 else noise * 1.5 * parameter.shape[1] ** -0.5
    return guard.eval()


def write_guard(folder: Path, guard: GuardModel) -> Path:
    """Write a checkpoint with a tokenizer of bytes."""
    save_checkpoint(guard, folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder
