"""Random guards in the published layout, of a shape that vLLM's attention takes."""

from pathlib import Path

from streamward.model.checkpoint import save_checkpoint
from streamward.model.guard_model import GuardModel
from tests.engine import harness
from tests.moderation.guards import TEMPLATE, byte_tokenizer

VOCAB_SIZE = 288


def random_guard(*, has_qk_norm: bool = True) -> GuardModel:
    """The random guard of the engine's tests with more tokens, positions and wider heads."""
    return harness.random_guard(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        head_dim=32,
        intermediate_size=96,
        max_positions=512,
        has_qk_norm=has_qk_norm,
    )


def write_guard(folder: Path, guard: GuardModel) -> Path:
    """Write a checkpoint with a tokenizer of bytes."""
    save_checkpoint(guard, folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder
