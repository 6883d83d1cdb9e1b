"""`streamward models`: what guards there are, what they are, where they are kept."""

import argparse
import shutil
from pathlib import Path

from streamward.errors import InputError

_EXAMPLES = """\
examples:
  streamward models list
  streamward models info stream-135m
  streamward models pull Qwen/Qwen3Guard-Stream-0.6B
  streamward models export stream-135m ./stream-135m
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its four verbs."""
    parser = commands.add_parser(
        "models",
        help="list, describe, fetch and export guards",
        description="Lists, describes, fetches and exports guards.",
        epilog=_EXAMPLES,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    verbs.add_parser("list", help="guards that are embedded or in the cache").set_defaults(run=_list)
    info = verbs.add_parser("info", help="shape, labels and thresholds of a guard")
    info.add_argument("name", metavar="NAME", help="embedded guard, folder or hub id")
    info.set_defaults(run=_info)
    pull = verbs.add_parser("pull", help="prepare an embedded guard or fetch one from a hub")
    pull.add_argument("name", metavar="NAME", help="embedded guard, org/name or modelscope:org/name")
    pull.set_defaults(run=_pull)
    export = verbs.add_parser("export", help="write a guard as a folder in the published layout")
    export.add_argument("name", metavar="NAME", help="embedded guard, folder or hub id")
    export.add_argument("folder", metavar="FOLDER", help="new or empty")
    export.set_defaults(run=_export)


def _list(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from streamward.bundled.base import cache_folder
    from streamward.bundled.embedded import embedded_guards

    del arguments
    table = Table(box=None, pad_edge=False)
    for column in ("guard", "where"):
        table.add_column(column)
    for name in embedded_guards():
        table.add_row(name, _state(name))
    console = Console()
    console.print(table)
    console.print(f"cache: {cache_folder()}", style="dim", soft_wrap=True)
    return 0


def _state(name: str) -> str:
    from streamward.bundled.embedded import is_prepared, missing_base

    base = missing_base(name)
    if base is not None:
        return f"embedded, its base {base.name} is not installed: {base.install}"
    return "embedded, prepared" if is_prepared(name) else "embedded, prepared at first use"


def _info(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from streamward.bundled.embedded import embedded_guards, guard_folder
    from streamward.loading import find_served
    from streamward.model.config import parse_model_config
    from streamward.model.config_file import read_config
    from streamward.model.guard_config import is_stream_checkpoint, parse_guard_config
    from streamward.schema import Side

    folder = find_served(arguments.name)
    raw = read_config(folder)
    shape = parse_model_config(raw)
    is_stream = is_stream_checkpoint(raw)
    facts = [
        ("guard", arguments.name),
        ("kind", "Stream: judges every token" if is_stream else "Gen: judges whole texts"),
        ("family", shape.family),
        ("layers", f"{shape.num_layers} of width {shape.hidden_size}"),
        ("positions", str(shape.max_positions)),
        ("vocabulary", str(shape.vocab_size)),
    ]
    if is_stream:
        guard = parse_guard_config(raw)
        facts.append(("window", f"{guard.window_tokens or shape.max_positions} tokens"))
        for side in Side:
            point = guard.operating_points.get(side)
            level = "most probable level"
            if point is not None:
                level = f"Unsafe from {point.unsafe:.3f}, Controversial from {point.controversial:.3f}"
            facts.append((f"{side} level", level))
            facts.append((f"{side} labels", ", ".join(guard.labels(side).categories)))
    if arguments.name in embedded_guards():
        facts.append(("card", str(guard_folder(arguments.name) / "README.md")))
    facts.append(("folder", str(folder)))
    console = Console(highlight=False)
    for name, value in facts:
        console.print(f"{name:16} {value}", soft_wrap=True, markup=False)
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from streamward.loading import find_served

    print(find_served(arguments.name))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from streamward.loading import find_checkpoint

    target = Path(arguments.folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{str(target)!r} exists and is not an empty folder; give a new one")
    shutil.copytree(find_checkpoint(arguments.name), target, dirs_exist_ok=True)
    print(target)
    return 0
