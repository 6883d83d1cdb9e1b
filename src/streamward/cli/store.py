"""`streamward store`: the database of the service, and whether it fits this version."""

import argparse

from streamward.cli.common import ExitCode, needing, say
from streamward.cli.serve import config_options, read_config

_EXAMPLES = """\
examples:
  streamward store check --config configs/serve.toml
  streamward store upgrade --config configs/serve.toml
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its verbs."""
    parser = commands.add_parser(
        "store",
        help="check or migrate the database of the service",
        description=(
            "Checks or migrates the database of keys, usage and decisions. A service that starts migrates it by itself;"
            " this does it before, so that the start does not wait for it."
        ),
        epilog=_EXAMPLES,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    options = config_options()
    check = verbs.add_parser("check", parents=[options], help="show what a start would change, without changing it")
    check.set_defaults(run=_check)
    upgrade = verbs.add_parser("upgrade", parents=[options], help="create or migrate the tables")
    upgrade.set_defaults(run=_upgrade)


def _check(arguments: argparse.Namespace) -> int:
    config = read_config(arguments)
    with needing("the store needs", "serve"):
        from streamward.server.store import pending_revisions
    waiting = pending_revisions(config.store)
    print(f"to be migrated: {', '.join(waiting)}" if waiting else "as this version needs it")
    return ExitCode.ALLOWED


def _upgrade(arguments: argparse.Namespace) -> int:
    config = read_config(arguments)
    with needing("the store needs", "serve"):
        from streamward.server.store import open_store, pending_revisions
    waiting = pending_revisions(config.store)
    open_store(config.store).dispose()
    say(f"migrated: {', '.join(waiting)}" if waiting else "nothing to migrate")
    return ExitCode.ALLOWED
