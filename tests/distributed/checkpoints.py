"""The tiny guard as a folder, for whoever loads it in another process."""

import json
from pathlib import Path

from streamward.model.checkpoint import save_checkpoint
from tests.moderation.guards import TEMPLATE, byte_tokenizer, random_model


def tiny_checkpoint(folder: Path) -> Path:
    """Write the guard with random weights that `tests.moderation.guards.stream_guard` has."""
    save_checkpoint(random_model(), folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder
