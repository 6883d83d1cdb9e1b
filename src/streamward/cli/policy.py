"""`streamward policy`: check a policy file, show what it means, try it on recorded traffic."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from streamward.cli.common import DEFAULT_GUARD, called, load, open_bytes
from streamward.cli.show import describe_thresholds
from streamward.errors import InputError
from streamward.policy import Policy
from streamward.schema import RiskLevel

if TYPE_CHECKING:
    from streamward.server.dry_run import Summary

_MAX_IDS = 20


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its verbs."""
    parser = commands.add_parser(
        "policy",
        help="check, show or try a policy",
        description="Checks a policy file, shows what it means, or tries it on recorded traffic.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    check = verbs.add_parser("check", help="check a policy file and report its errors")
    show = verbs.add_parser("show", help="print a policy with all its defaults, as JSON")
    trial = verbs.add_parser("try", help="show what a policy would have done to recorded traffic")
    for verb, run in ((check, _check), (show, _show), (trial, _try)):
        verb.add_argument("policy", metavar="POLICY", help="strict, loose or a TOML file")
        verb.set_defaults(run=run)
    trial.add_argument(
        "records",
        metavar="FILE",
        help="JSON lines of `streamward audit export`, or with prompt, response or messages; - for standard input",
    )
    trial.add_argument("--guard", default=DEFAULT_GUARD, metavar="G", help="guard that judges (default: %(default)s)")
    trial.add_argument("--json", action="store_true", help="print JSON, with the ids of everything that changes")


def _check(arguments: argparse.Namespace) -> int:
    policy = Policy.load(arguments.policy)
    print(f"{policy.name} (version {policy.version}) is valid")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    policy = Policy.load(arguments.policy)
    print(json.dumps(policy.model_dump(mode="json"), indent=2, ensure_ascii=False))
    return 0


def _try(arguments: argparse.Namespace) -> int:
    from streamward.server.dry_run import read_records, try_policy

    with open_bytes(arguments.records) as file:
        records = list(read_records(file))
    if not records:
        raise InputError(f"{called(arguments.records)} has no records, so there is nothing to try")
    with load(arguments) as moderator:
        found = try_policy(moderator, records)
    if arguments.json:
        changes = {f"{before} -> {after}": count for (before, after), count in found.changes.items()}
        print(json.dumps(asdict(found) | {"changes": changes}, indent=2, ensure_ascii=False))
        return 0
    _print(found)
    return 0


def _print(found: "Summary") -> None:
    print(f"{found.num_rows} records, {found.num_without_text} of them without text")
    for side, thresholds in found.thresholds.items():
        print(f"{side}: {describe_thresholds({RiskLevel(level): value for level, value in thresholds.items()})}")
    for (before, after), count in sorted(found.changes.items()):
        print(f"  {before:8} -> {after:8} {count:8}")
    for name, count in sorted(found.categories.items(), key=lambda item: -item[1]):
        print(f"  stopped for {name}: {count}")
    for name, count in sorted(found.rules.items(), key=lambda item: -item[1]):
        print(f"  rule {name} fired: {count}")
    for title, ids in (("newly stopped", found.newly_stopped), ("newly passed", found.newly_passed)):
        more = f" and {len(ids) - _MAX_IDS} more" if len(ids) > _MAX_IDS else ""
        print(f"{title}: {len(ids)} {', '.join(ids[:_MAX_IDS])}{more}".rstrip())
