"""`streamward policy`: check a policy file, show what it means."""

import argparse
import json

from streamward.policy import Policy


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its two verbs."""
    parser = commands.add_parser(
        "policy", help="check or show a policy", description="Checks a policy file, or shows what it means."
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    check = verbs.add_parser("check", help="say whether a policy file is right, and what is wrong with it")
    show = verbs.add_parser("show", help="print a policy with all its defaults, as JSON")
    for verb, run in ((check, _check), (show, _show)):
        verb.add_argument("policy", metavar="POLICY", help="strict, loose or a TOML file")
        verb.set_defaults(run=run)


def _check(arguments: argparse.Namespace) -> int:
    policy = Policy.load(arguments.policy)
    print(f"{policy.name} (version {policy.version}) is valid")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    policy = Policy.load(arguments.policy)
    print(json.dumps(policy.model_dump(mode="json"), indent=2, ensure_ascii=False))
    return 0
