"""Taught rules made by hand, for small guards."""

from collections.abc import Mapping, Sequence

import numpy as np

from streamward.model.fingerprint import GuardIdentity
from streamward.moderation.engine_worker import EngineWorker
from streamward.moderation.stream_guard import StreamGuard
from streamward.policy import Policy
from streamward.rules.examples import rule_digest
from streamward.rules.probe import CHANNELS, ProbeBank, RuleProbe
from streamward.schema import Side
from tests.moderation.guards import stream_guard

IDENTITY = GuardIdentity("small", "0123456789abcdef")
HIDDEN_SIZE = 32
ALWAYS, NEVER = -1e6, 1e6


def small_guard(**limits: int) -> StreamGuard:
    """A small guard of known identity."""
    guard = stream_guard(**limits)
    return StreamGuard(guard.tokenizer, EngineWorker(guard.engine), identity=IDENTITY)


def rule_probe(
    rule_id: str = "one",
    *,
    digest: str = "d",
    sides: frozenset[Side] = frozenset(Side),
    threshold: float | None = None,
    seed: int = 0,
) -> RuleProbe:
    """A rule with random weights, or one that fires always or never."""
    weights = np.random.default_rng(seed).normal(size=(len(CHANNELS), 1, HIDDEN_SIZE)).astype(np.float16)
    first = 0.0 if threshold is None else threshold
    second = ALWAYS if threshold is None else threshold
    thresholds = {side: (first, second) for side in Side}
    return RuleProbe(rule_id, digest, sides, weights.astype(np.float32), (0.1, -0.2), thresholds, (0.5, 0.5))


def bank_of(rules: Sequence[RuleProbe], *, identity: GuardIdentity = IDENTITY) -> ProbeBank:
    """Rules that read the last layer of a small guard; what a file of them gives."""
    means = {side: np.zeros((1, HIDDEN_SIZE), np.float32) for side in Side}
    deviations = {side: np.ones((1, HIDDEN_SIZE), np.float32) for side in Side}
    made = ProbeBank(identity.name, identity.fingerprint, (1,), means, deviations, tuple(rules))
    return ProbeBank.from_bytes(made.to_bytes(), source="test")


def policy_with(
    *rules: Mapping[str, object],
    thresholds: Mapping[str, float | None],
    identity: GuardIdentity = IDENTITY,
    **values: object,
) -> Policy:
    """A policy whose rules fire at every token, at none, or where random weights say (None)."""
    stated = [{"text": "no", "examples": ["a"], **rule} for rule in rules]
    policy = Policy.parse({"name": "own", "rules": stated, **values}, source="test")
    probes = [
        rule_probe(rule.id, sides=rule.sides, threshold=thresholds[rule.id], seed=index)
        for index, rule in enumerate(policy.rules)
    ]
    return policy.with_probe(bank_of(probes, identity=identity))


__all__ = ["ALWAYS", "IDENTITY", "NEVER", "bank_of", "policy_with", "rule_digest", "rule_probe", "small_guard"]
