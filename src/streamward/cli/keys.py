"""`streamward keys`: create, list and revoke API keys; show their usage."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from streamward.cli.common import ExitCode, needing, say
from streamward.cli.serve import config_options, read_config

if TYPE_CHECKING:
    from streamward.server.keys import KeyStore

_EXAMPLES = """\
examples:
  streamward keys create acme --config configs/serve.toml --policy strict
  streamward keys list
  streamward keys revoke abcdefghij
  streamward keys usage --tenant acme --since 2026-01-01
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its verbs."""
    parser = commands.add_parser(
        "keys",
        help="create, list and revoke API keys of the service",
        description="Creates, lists and revokes API keys. Works beside a running service, on its database.",
        epilog=_EXAMPLES,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    options = config_options()
    create = verbs.add_parser("create", parents=[options], help="create a key and print it; it cannot be shown again")
    create.add_argument("tenant", metavar="TENANT", help="tenant that owns the key")
    create.add_argument("--name", default="", metavar="TEXT", help="purpose of the key")
    create.add_argument("--policy", metavar="P", help="policy it is judged by (default: the service's)")
    create.add_argument(
        "--other-policy", action="append", default=[], metavar="P", help="policy that its requests may ask for instead"
    )
    create.add_argument(
        "--upstream", action="append", metavar="U", help="upstream that it may reach (default: all); repeatable"
    )
    create.add_argument("--admin", action="store_true", help="may use the admin API and see every tenant")
    create.add_argument("--requests-per-minute", type=_positive, metavar="N")
    create.add_argument("--max-concurrent", type=_positive, metavar="N")
    create.add_argument("--days", type=float, metavar="D", help="days after which it expires (default: never)")
    create.set_defaults(run=_create)
    listing = verbs.add_parser("list", parents=[options], help="list keys as JSON lines, never the keys themselves")
    listing.add_argument("--tenant", metavar="T")
    listing.set_defaults(run=_list)
    revoke = verbs.add_parser("revoke", parents=[options], help="revoke a key")
    revoke.add_argument("id", metavar="ID", help="the part of the key after sw-")
    revoke.set_defaults(run=_revoke)
    usage = verbs.add_parser("usage", parents=[options], help="counts by key and day as JSON lines")
    usage.add_argument("--tenant", metavar="T")
    usage.add_argument("--since", default="", metavar="DAY", help="first day, as 2026-01-31")
    usage.set_defaults(run=_usage)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


@contextmanager
def _store(arguments: argparse.Namespace) -> Iterator["KeyStore"]:
    config = read_config(arguments)
    with needing("keys need", "serve"):
        from streamward.server.keys import KeyStore
        from streamward.server.store import open_store
    engine = open_store(config.store)
    try:
        yield KeyStore(engine=engine)
    finally:
        engine.dispose()


def _create(arguments: argparse.Namespace) -> int:
    expires_at = None if arguments.days is None else datetime.now(UTC) + timedelta(days=arguments.days)
    from streamward.server.policy_folder import check_names, check_upstreams, read_policies

    config = read_config(arguments)
    check_names(read_policies(config.policies), [arguments.policy, *arguments.other_policy])
    check_upstreams(config.upstreams, arguments.upstream)
    with _store(arguments) as keys:
        secret, key = keys.create(
            arguments.tenant,
            name=arguments.name,
            policy=arguments.policy,
            other_policies=tuple(arguments.other_policy),
            upstreams=None if arguments.upstream is None else tuple(arguments.upstream),
            is_admin=arguments.admin,
            requests_per_minute=arguments.requests_per_minute,
            max_concurrent=arguments.max_concurrent,
            expires_at=expires_at,
        )
    print(secret)
    say(f"key {key.id} of {key.tenant}; keep it: it cannot be shown again")
    return ExitCode.ALLOWED


def _list(arguments: argparse.Namespace) -> int:
    with _store(arguments) as keys:
        for key in keys.all(arguments.tenant):
            print(json.dumps(asdict(key), default=str))
    return ExitCode.ALLOWED


def _revoke(arguments: argparse.Namespace) -> int:
    with _store(arguments) as keys:
        key = keys.revoke(arguments.id)
    print(f"{key.id} of {key.tenant} is revoked")
    return ExitCode.ALLOWED


def _usage(arguments: argparse.Namespace) -> int:
    with _store(arguments) as keys:
        for row in keys.usage(tenant=arguments.tenant, since=arguments.since):
            print(json.dumps(row))
    return ExitCode.ALLOWED
