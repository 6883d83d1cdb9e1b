"""From the examples of a policy to its taught rules: read, learn, cross-validate, set thresholds, report."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamward.errors import ConfigError
from streamward.model.fingerprint import GuardIdentity
from streamward.moderation.stream_guard import StreamGuard
from streamward.policy import Policy
from streamward.rules.calibration import HeldOutScores, RuleCalibration, Thresholds2D, choose, cross_validate
from streamward.rules.examples import LabelledExamples, load_examples, rule_digest
from streamward.rules.features import PooledText, channel_weights
from streamward.rules.fit import SIDE_LEVELS, FittedRule, fit
from streamward.rules.probe import GATE_MIX, Floats, ProbeBank, RuleProbe
from streamward.rules.rule import Rule, RuleExample
from streamward.schema import Side
from streamward.teach.hidden_states import pooled_example, read_texts, taps_of
from streamward.teach.ordinary import OrdinaryTraffic, ordinary_traffic
from streamward.teach.reference import ReferenceRules, reference_rules
from streamward.teach.report import LessonReport, report_rule

MIN_EXAMPLES = 5
"""Examples, and as many counter-examples, without which nothing is learnt."""
DEFAULT_FALSE_POSITIVES = 0.01


@dataclass(frozen=True)
class _Lesson:
    rule: Rule
    examples: tuple[RuleExample, ...]
    texts: tuple[PooledText, ...]
    fitted: FittedRule
    held_out: HeldOutScores
    calibration: RuleCalibration
    seconds: float


def teach(
    policy: Policy,
    folder: Path,
    guard: StreamGuard,
    *,
    false_positives: float = DEFAULT_FALSE_POSITIVES,
    force: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[ProbeBank, list[LessonReport]]:
    """Learn the rules of a policy that have examples.

    Args:
        policy: With the rules.
        folder: Folder of the policy's file; paths of examples begin there.
        guard: Its engine is in this process and has nothing else to do.
        false_positives: Share of ordinary texts at which a rule may fire.
        force: Whether rules are armed that could not be learnt.
        tell: Told about progress.

    Returns:
        The rules that are armed, and a report about each.

    Raises:
        ConfigError: No rule has examples, there are too few or wrong ones, or the guard is not one of known weights.
    """
    identity = _identity(guard)
    chosen = [(rule, _enough(rule, load_examples(rule, folder))) for rule in policy.taught_rules]
    if not chosen:
        raise ConfigError("no rule of the policy has examples; nothing can be taught")
    traffic, reference = _background(guard, identity, tell)
    taps = taps_of(guard.engine.runner.model_config)
    lessons = []
    for rule, examples in chosen:
        tell(f"teaching {rule.id}: {len(examples.violations)} examples, {len(examples.allowed)} counter-examples")
        lessons.append(_teach_rule(rule, examples, guard, taps, traffic, reference, policy, false_positives))
    runs = {side: policy.consecutive_tokens(side) for side in Side}
    reports = [_report(lesson, lessons, traffic, runs) for lesson in lessons]
    armed = [lesson for lesson, report in zip(lessons, reports, strict=True) if report.is_learnt or force]
    probes = tuple(_probe(lesson, folder, guard.engine.runner.model_config.hidden_size, len(taps)) for lesson in armed)
    bank = ProbeBank(
        identity.name,
        identity.fingerprint,
        taps,
        {side: standard.mean for side, standard in traffic.standards.items()},
        {side: standard.deviation for side, standard in traffic.standards.items()},
        probes,
    )
    return bank, reports


def prepare(guard: StreamGuard, *, tell: Callable[[str], None] = lambda text: None) -> None:
    """Read what every rule is taught against, once for a guard, so that `teach` finds it in the cache.

    Args:
        guard: As for `teach`.
        tell: Told about progress.

    Raises:
        ConfigError: The guard is not one of known weights in this process.
    """
    _background(guard, _identity(guard), tell)


def _identity(guard: StreamGuard) -> GuardIdentity:
    if guard.identity is None:
        raise ConfigError("rules are taught on a Stream guard whose engine runs in this process")
    return guard.identity


def _background(
    guard: StreamGuard, identity: GuardIdentity, tell: Callable[[str], None]
) -> tuple[OrdinaryTraffic, ReferenceRules]:
    traffic = ordinary_traffic(guard, fingerprint=identity.fingerprint, tell=tell)
    return traffic, reference_rules(guard, traffic, fingerprint=identity.fingerprint, tell=tell)


def _enough(rule: Rule, examples: LabelledExamples) -> LabelledExamples:
    for name, rows in (("examples", examples.violations), ("counter_examples", examples.allowed)):
        if len(rows) < MIN_EXAMPLES:
            raise ConfigError(
                f"the rule {rule.id!r} has {len(rows)} {name}; give at least {MIN_EXAMPLES}, better 20 or more"
            )
    return examples


def _teach_rule(
    rule: Rule,
    examples: LabelledExamples,
    guard: StreamGuard,
    taps: tuple[int, ...],
    traffic: OrdinaryTraffic,
    reference: ReferenceRules,
    policy: Policy,
    false_positives: float,
) -> _Lesson:
    started = time.perf_counter()
    rows = (*examples.violations, *examples.allowed)
    labels = [True] * len(examples.violations) + [False] * len(examples.allowed)
    texts = []
    for text, violates in zip(read_texts(guard, taps, rows), labels, strict=True):
        texts.append(pooled_example(text, traffic.standards[text.side], violates=violates))
    ordinary, calibration = traffic.gate_rows(rule.sides), traffic.calibration_inputs(rule.sides)
    prior = reference.direction([row.text for row in rows])
    fitted = fit(texts, ordinary, prior=prior)
    held_out = cross_validate(texts, ordinary, calibration, prior=prior)
    chosen = choose(
        held_out,
        labels,
        calibration.scores(fitted),
        false_positives=false_positives,
        run=[policy.consecutive_tokens(text.side) for text in texts],
    )
    seconds = time.perf_counter() - started
    return _Lesson(rule, rows, tuple(texts), fitted, held_out, chosen, seconds)


def _report(
    lesson: _Lesson, lessons: Sequence[_Lesson], traffic: OrdinaryTraffic, runs: Mapping[Side, int]
) -> LessonReport:
    others = {
        other.rule.id: _fired_share(lesson, other, runs)
        for other in lessons
        if other is not lesson and other.rule.sides & lesson.rule.sides
    }
    thresholds = lesson.calibration.thresholds
    ordinary = traffic.calibration_inputs(lesson.rule.sides).scores(lesson.fitted)
    return report_rule(
        lesson.rule.id,
        lesson.examples,
        lesson.texts,
        lesson.held_out.scores,
        lesson.calibration,
        ordinary=(ordinary.num_fired(thresholds.violation, thresholds.gate), len(ordinary.starts)),
        others=others,
        seconds=lesson.seconds,
    )


def _fired_share(lesson: _Lesson, other: _Lesson, runs: Mapping[Side, int]) -> float:
    texts = [text for text in other.texts if text.side in lesson.rule.sides]
    thresholds = lesson.calibration.thresholds
    fired = [thresholds.fires(lesson.fitted.score(text), run=runs[text.side]).any() for text in texts]
    return float(np.mean(fired)) if fired else 0.0


def _probe(lesson: _Lesson, folder: Path, size: int, num_taps: int) -> RuleProbe:
    fitted, shape = lesson.fitted, (num_taps, size)
    weights = channel_weights(fitted.violation.weights, shape, is_gate=False)
    weights += channel_weights(fitted.gate.weights, shape, is_gate=True)
    return RuleProbe(
        lesson.rule.id,
        rule_digest(lesson.rule, folder),
        lesson.rule.sides,
        weights,
        (fitted.violation.bias, fitted.gate.bias),
        {side: _thresholds(lesson.calibration.thresholds, SIDE_LEVELS[side]) for side in Side},
        _scales(lesson.held_out.scores),
    )


def _thresholds(chosen: Thresholds2D, level: float) -> tuple[float, float]:
    """Return thresholds of scores that the level of a side was not taken from."""
    return chosen.violation + level, chosen.gate + GATE_MIX * level


def _scales(held_out: Sequence[tuple[Floats, Floats]]) -> tuple[float, float]:
    """Return a third of the spread of the held-out scores of each head: one logistic unit."""
    spreads = [float(np.std([pair[part].max() for pair in held_out])) for part in (0, 1)]
    return max(spreads[0] / 3, 1e-3), max(spreads[1] / 3, 1e-3)
