"""Taught rules beside the guard's own heads: which are loaded in the engine, and what they say of each token."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from streamward.engine.engine import Engine
from streamward.engine.outputs import StepOutput
from streamward.errors import CheckpointError, ConfigError
from streamward.model.fingerprint import GuardIdentity
from streamward.policy import Policy
from streamward.rules.probe import ProbeBank
from streamward.rules.scoring import ProbeScorer, RuleTracker
from streamward.schema import FiredRule, Side

_MAX_IDLE = 4  # banks that stay in the engine while no text is judged by them


class EngineHolder(Protocol):
    """A guard that has an engine in this process."""

    @property
    def engine(self) -> Engine:
        """The engine."""
        ...


def check_rules(policy: Policy, identity: GuardIdentity | None) -> None:
    """Refuse a policy with rules that a guard cannot judge.

    Args:
        policy: Perhaps with rules.
        identity: Identity of a Stream guard whose engine is in this process; None for every other guard.

    Raises:
        ConfigError: A rule is in words only, the guard has no hidden states to offer, or the rules were taught on
            another guard.
    """
    in_words = [rule.id for rule in policy.rules if not rule.is_taught]
    if in_words:
        raise ConfigError(
            f"the rule {in_words[0]!r} has no examples; this guard cannot read rules: give examples and run"
            " `streamward teach`, or ask a guard that reads policies too"
        )
    if not policy.rules:
        return
    if identity is None:
        raise ConfigError("taught rules need a Stream guard whose engine runs in this process; this guard is not one")
    bank = policy.probe
    if bank is None:
        raise ConfigError("the policy's rules were not taught; run `streamward teach`")
    missing = [rule.id for rule in policy.rules if rule.id not in bank.rule_ids]
    if missing:
        raise ConfigError(f"the rule {missing[0]!r} was not taught; run `streamward teach`")
    if bank.fingerprint != identity.fingerprint:
        raise ConfigError(
            f"the rules were taught on the guard {bank.guard!r} ({bank.fingerprint}), this is {identity.name!r}"
            f" ({identity.fingerprint}); run `streamward teach --guard` for this one"
        )


class ProbeRegistry:
    """Keeps the taught rules of the policies in use in one engine. Thread-safe."""

    def __init__(self, holder: EngineHolder, identity: GuardIdentity | None) -> None:
        """Start empty.

        Args:
            holder: Where tokens are scored.
            identity: Identity of its guard; None if that is not known, so that no rules can be judged.
        """
        self._holder = holder
        self._identity = identity
        self._lock = threading.Lock()
        # Number of uses by digest; the least recently used comes first.
        self._uses: OrderedDict[str, int] = OrderedDict()

    def check(self, policy: Policy) -> None:
        """Refuse a policy with rules that this guard cannot judge.

        Raises:
            ConfigError: As `check_rules`.
        """
        check_rules(policy, self._identity)

    def take(self, policy: Policy) -> Callable[[], None]:
        """Have the rules of a policy scored until the function that is returned is called, once.

        Raises:
            ConfigError: The guard cannot judge them.
        """
        self.check(policy)
        bank = policy.probe
        if bank is None or not policy.rules:
            return _nothing
        self._add(bank)
        is_released = threading.Event()

        def release() -> None:
            with self._lock:
                if not is_released.is_set():
                    is_released.set()
                    self._uses[bank.digest] -= 1

        return release

    @contextmanager
    def taken(self, policy: Policy) -> Iterator[None]:
        """Have the rules of a policy scored for the time of a `with` block."""
        release = self.take(policy)
        try:
            yield
        finally:
            release()

    def _add(self, bank: ProbeBank) -> None:
        with self._lock:
            if bank.digest not in self._uses:
                self._holder.engine.add_probe(ProbeScorer(bank))
                self._uses[bank.digest] = 0
            self._uses[bank.digest] += 1
            self._uses.move_to_end(bank.digest)
            idle = [digest for digest, uses in self._uses.items() if uses == 0]
            for digest in idle[: max(0, len(idle) - _MAX_IDLE)]:
                self._holder.engine.remove_probe(digest)
                del self._uses[digest]


class RuleReader:
    """Says which rules fire at each token of one text."""

    def __init__(self, policy: Policy, side: Side) -> None:
        """Start with no tokens."""
        bank = policy.probe
        rules = policy.rules_for(side)
        self._thresholds: Mapping[str, float] = {rule.id: rule.threshold for rule in rules}
        self._name = None if bank is None or not rules else bank.digest
        self._tracker = None if self._name is None or bank is None else RuleTracker(bank, side, set(self._thresholds))

    def truncate(self, num_tokens: int) -> None:
        """Drop all but the first tokens."""
        if self._tracker is not None:
            self._tracker.truncate(num_tokens)

    def read(self, output: StepOutput) -> list[tuple[FiredRule, ...]]:
        """Take in the scores of the next tokens and return the rules that fire at each.

        Raises:
            CheckpointError: The rules could not be judged.
        """
        if self._tracker is None or self._name is None:
            return [()] * len(output.risk_probs)
        scores = output.probe_scores.get(self._name)
        if scores is None or not np.isfinite(scores).all():
            raise CheckpointError("the taught rules could not be scored; see the log")
        found = self._tracker.extend(scores)
        limits = np.array([self._thresholds[rule_id] for rule_id in self._tracker.rule_ids])
        fired: list[tuple[FiredRule, ...]] = [()] * len(found)
        for row in np.flatnonzero((found >= limits).any(axis=1)).tolist():
            fired[row] = self._fired(dict(zip(self._tracker.rule_ids, found[row].tolist(), strict=True)))
        return fired

    def last(self) -> tuple[FiredRule, ...]:
        """Return the rules that fire at the end of the text, however short it is."""
        return () if self._tracker is None else self._fired(self._tracker.final())

    def _fired(self, scores: Mapping[str, float]) -> tuple[FiredRule, ...]:
        return tuple(
            FiredRule(rule_id, scores[rule_id])
            for rule_id, threshold in self._thresholds.items()
            if rule_id in scores and scores[rule_id] >= threshold
        )


def _nothing() -> None:
    """Release nothing."""
