"""A tiny guard as a package, as pip would leave it in a folder of `sys.path`."""

import json
from pathlib import Path

from streamward.bundled.packages import ENTRY_POINT_GROUP
from streamward.model.preparation import prepare
from streamward.model.prepared import save_prepared
from streamward.model.published import config_keys
from tests.model.small import small_guard
from tests.moderation.guards import TEMPLATE, byte_tokenizer

GUARD_NAME = "tiny"


def write_prepared_guard(folder: Path) -> Path:
    """Write a guard with 8-bit weights, tokenizer and template into a folder."""
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer()
    parameters = prepare(small_guard(vocab_size=tokenizer.get_vocab_size(with_added_tokens=True)))
    save_prepared(parameters, folder)
    keys = config_keys(parameters.config, parameters.guard, dtype="bfloat16")
    (folder / "config.json").write_text(json.dumps(keys), encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def install_guard(site: Path, *, name: str = GUARD_NAME) -> Path:
    """Lay a guard package into a folder; return that of its module."""
    module = f"streamward_guard_{name.replace('-', '_')}"
    folder = write_prepared_guard(site / module)
    (folder / "__init__.py").write_text("raise AssertionError('nothing imports a guard package')\n", encoding="utf-8")
    information = site / f"{module}-1.0.dist-info"
    information.mkdir()
    entry_point = f"[{ENTRY_POINT_GROUP}]\n{name} = {module}\n"
    (information / "entry_points.txt").write_text(entry_point, encoding="utf-8")
    metadata = f"Metadata-Version: 2.1\nName: streamward-guard-{name}\nVersion: 1.0\n"
    (information / "METADATA").write_text(metadata, encoding="utf-8")
    return folder
