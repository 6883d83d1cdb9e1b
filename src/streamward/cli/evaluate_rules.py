"""`streamward evaluate rules`: how well a policy's own rules are judged."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from streamward.cli.common import DEFAULT_GUARD, ExitCode, say
from streamward.errors import InputError

_SAY_EVERY = 100


def evaluate_rules(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Measure taught rules on a set of rules, and write `report.json` and `report.md`.

    Raises:
        InputError: The arguments do not name one set, one guard and a policy with rules.
    """
    if len(rest) != 1:
        raise InputError("give one set after `rules`: a folder with rules.toml, or a file in DynaBench's layout")
    guards = arguments.guard or [DEFAULT_GUARD]
    if len(guards) > 1:
        raise InputError("rules are measured with one guard at a time")
    from streamward.evals.rule_metrics import TaughtRules, measure_rules, only_rules
    from streamward.evals.rule_sets import load_rule_set
    from streamward.loading import load

    rows = load_rule_set(Path(rest[0]))
    with load(guards[0], policy=arguments.policy) as moderator:
        chosen = only_rules(rows, moderator.policy.rules)
        if not chosen:
            raise InputError(
                "none of the set's rules is in the policy; a Stream guard judges only rules it was taught, so teach"
                " them first and give the policy with --policy"
            )
        chosen = chosen[: arguments.limit] if arguments.limit else chosen
        report = measure_rules(chosen, TaughtRules(moderator), tell=_tell)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    table = "\n".join(report.lines())
    (out / "report.json").write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    (out / "report.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    return ExitCode.ALLOWED


def _tell(done: int, total: int) -> None:
    if done % _SAY_EVERY == 0 or done == total:
        say(f"judged {done} of {total} rows, each with its rule and without")
