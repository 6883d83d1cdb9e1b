"""`streamward teach`: learn the rules of a policy from their examples, or have examples drafted."""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from streamward.cli.common import DEFAULT_GUARD, ExitCode, say
from streamward.errors import ConfigError
from streamward.policy import Policy
from streamward.rules.probe import probe_path
from streamward.rules.rule import Rule

if TYPE_CHECKING:
    from streamward.moderation.stream_guard import StreamGuard
    from streamward.rules.probe import ProbeBank

_EXAMPLES = """\
examples:
  streamward teach house.toml
  streamward teach house.toml --false-positives 0.005
  streamward teach --prepare --guard stream-multi
  streamward teach house.toml --draft http://localhost:8000/v1#qwen3-8b --rule no-dosage > candidates.jsonl
"""
DEFAULT_RATE = 0.01
_DEFAULT_DRAFTS = 20


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "teach",
        help="teach a policy's own rules from examples",
        description="Learns the rules of a policy from their examples, in seconds on a CPU, and writes what was learnt"
        " beside the policy. Exit code 1 if a rule could not be learnt; nothing is written then.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("policy", metavar="POLICY", nargs="?", help="a TOML file with [[rules]]")
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="only read ordinary traffic and other rules by the guard, once, so that teaching takes seconds later",
    )
    parser.add_argument(
        "--guard",
        default=DEFAULT_GUARD,
        metavar="G",
        help="Stream guard that will serve the policy (default: %(default)s)",
    )
    parser.add_argument(
        "--false-positives",
        type=float,
        default=DEFAULT_RATE,
        metavar="R",
        help="share of ordinary texts at which a rule may fire (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="arm rules that could not be learnt, too")
    parser.add_argument(
        "--draft",
        metavar="URL",
        help="print candidate examples by the model behind an OpenAI-compatible endpoint (http://host/v1#model), for a"
        " person to confirm; nothing is taught",
    )
    parser.add_argument("--rule", metavar="ID", help="with --draft: only this rule")
    parser.add_argument(
        "--count",
        type=int,
        default=_DEFAULT_DRAFTS,
        metavar="N",
        help="with --draft: examples of each kind (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Teach, draft, or prepare a guard."""
    if arguments.prepare:
        if arguments.policy is not None:
            raise ConfigError("--prepare is about a guard and takes no policy")
        return _prepare(arguments.guard)
    if arguments.policy is None:
        raise ConfigError("teach needs a POLICY, or --prepare")
    path = Path(arguments.policy)
    policy = Policy.load(path, needs_taught_rules=False)
    if arguments.draft is not None:
        return _draft(arguments, policy)
    if arguments.rule is not None:
        raise ConfigError("--rule needs --draft; all rules of a policy are taught together")
    if not 0.0 <= arguments.false_positives <= 0.5:
        raise ConfigError("--false-positives must be a share from 0 to 0.5")
    return _teach(arguments, policy, path)


def _prepare(name: str) -> int:
    from streamward.teach.teaching import prepare  # imported late, because it takes seconds

    with _loaded(name) as guard:
        prepare(guard, tell=say)
    say(f"{name} is prepared: what rules are taught against is in the cache")
    return ExitCode.ALLOWED


@contextmanager
def _loaded(name: str) -> "Iterator[StreamGuard]":
    from streamward.loading import find_served, load_guard
    from streamward.moderation.stream_guard import StreamGuard

    guard = load_guard(find_served(name))
    try:
        if not isinstance(guard, StreamGuard):
            raise ConfigError(f"{name!r} judges whole texts only; rules are taught on a Stream guard")
        yield guard
    finally:
        guard.close()


def _teach(arguments: argparse.Namespace, policy: Policy, path: Path) -> int:
    from streamward.teach.teaching import teach

    with _loaded(arguments.guard) as guard:
        bank, reports = teach(
            policy,
            path.parent,
            guard,
            false_positives=arguments.false_positives,
            force=arguments.force,
            tell=say,
        )
    for report in reports:
        print("\n".join(report.lines()))
    failed = [report.rule_id for report in reports if not report.is_learnt]
    if failed and not arguments.force:
        say(f"nothing was written: {', '.join(failed)} could not be learnt; give other examples, or use --force")
        return ExitCode.FAILURE
    target = probe_path(path)
    _write(bank, target)
    say(f"wrote {target} ({target.stat().st_size / 1024:.0f} KB, guard {bank.guard})")
    return ExitCode.ALLOWED


def _write(bank: "ProbeBank", path: Path) -> None:
    """Write a file in one go: a service that reloads must never see half of it."""
    handle, staged = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(bank.to_bytes())
        os.chmod(staged, 0o644)
        os.replace(staged, path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise


def _draft(arguments: argparse.Namespace, policy: Policy) -> int:
    from streamward.teach.draft import draft_examples

    rules = _chosen(policy, arguments.rule)
    if not 1 <= arguments.count <= 100:
        raise ConfigError("--count must be from 1 to 100")
    for rule in rules:
        for line in draft_examples(rule, arguments.draft, count=arguments.count):
            print(line)
    say("read every candidate, correct or delete it, and name the file in the policy: nothing was taught")
    return ExitCode.ALLOWED


def _chosen(policy: Policy, rule_id: str | None) -> list[Rule]:
    rules = [rule for rule in policy.rules if rule_id in (None, rule.id)]
    if not rules:
        raise ConfigError("the policy has no rules" if rule_id is None else f"the policy has no rule {rule_id!r}")
    return rules
