"""`streamward audit`: export the log of decisions, delete what is too old."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from streamward.cli.common import ExitCode, needing, say
from streamward.cli.serve import config_options, read_config
from streamward.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from streamward.server.config import ServeConfig

_EXAMPLES = """\
examples:
  streamward audit export --out decisions.jsonl --since 2026-01-01
  streamward audit export --out decisions.parquet --tenant acme
  streamward audit purge
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its verbs."""
    parser = commands.add_parser(
        "audit",
        help="export the service's log of decisions",
        description="Exports the log of decisions, or deletes what is too old. Works beside a running service.",
        epilog=_EXAMPLES,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    options = config_options()
    export = verbs.add_parser("export", parents=[options], help="write decisions as JSON lines or Parquet")
    export.add_argument("--out", default="-", metavar="FILE", help="*.jsonl, *.parquet, or - for standard output")
    export.add_argument("--since", type=_time, metavar="TIME", help="from then on, as 2026-01-31 or 2026-01-31T12:00Z")
    export.add_argument("--until", type=_time, metavar="TIME", help="before then")
    export.add_argument("--tenant", metavar="T")
    export.set_defaults(run=_export)
    purge = verbs.add_parser("purge", parents=[options], help="delete old rows and texts now, as the service does")
    purge.set_defaults(run=_purge)


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write 2026-01-31 or 2026-01-31T12:00Z") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _open(arguments: argparse.Namespace) -> "tuple[ServeConfig, Engine]":
    config = read_config(arguments)
    with needing("the log needs", "serve"):
        from streamward.server.store import open_store
    return config, open_store(config.store)


def _export(arguments: argparse.Namespace) -> int:
    _, engine = _open(arguments)
    from streamward.server.audit_reading import Period, all_rows, write_jsonl, write_parquet

    rows = all_rows(engine, Period(arguments.since, arguments.until, arguments.tenant))
    path = Path(arguments.out)
    if arguments.out == "-":
        count = write_jsonl(rows, sys.stdout)
    elif path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            count = write_jsonl(rows, file)
    elif path.suffix == ".parquet":
        count = write_parquet(rows, path)
    else:
        raise InputError(f"--out is {arguments.out!r}; it must end with .jsonl or .parquet, or be -")
    say(f"{count} decisions written")
    return ExitCode.ALLOWED


def _purge(arguments: argparse.Namespace) -> int:
    config, engine = _open(arguments)
    from streamward.server.audit_reading import purge

    done = purge(engine, now=datetime.now(UTC), retention_days=config.audit.retention_days)
    print(f"{done.num_rows} rows and {done.num_texts} texts deleted")
    return ExitCode.ALLOWED
