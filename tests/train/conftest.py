"""A tiny base, data and a cache of their own."""

import json
from pathlib import Path

import pytest
import torch

from streamward.model.checkpoint import save_checkpoint
from streamward.model.guard_model import CausalLM
from tests.train.tiny import MODEL_CONFIG, byte_tokenizer, row


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with a base in `base` and 120 rows in `rows.jsonl`."""
    monkeypatch.setenv("STREAMWARD_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    save_checkpoint(CausalLM(MODEL_CONFIG).to(torch.bfloat16), tmp_path / "base")
    byte_tokenizer().save(str(tmp_path / "base" / "tokenizer.json"))
    lines = [json.dumps(row(index)) for index in range(120)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path
