"""Costs of second opinions, and how often they agreed with the first. No text."""

import threading
from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

from streamward.policy_guards.rules import CallUsage


@dataclass(frozen=True, slots=True)
class CascadeStatistics:
    """Counts since the guard was loaded.

    Attributes:
        judged: Segments and whole texts that ended, asked about or not.
        asked_unsure: Those about which the second guard was asked because the first was unsure.
        asked_rules: Those about which it was asked because rules of the policy need it, and for that reason only.
        failed: Questions without an answer: the guard was late, down, or could not be read.
        refused: Questions that were not sent, because the guard had left too many unanswered; not among `failed`.
        openings: Times that questions were stopped for that reason.
        is_open: Whether they are stopped now.
        agreed_safe: Answered questions of `asked_unsure` in which neither guard objects.
        agreed_flagged: Both do.
        only_first: The first would have flagged what the second lets pass.
        only_second: The second flags what the first would have let pass.
        rules_kept: Answered questions of `asked_rules` in which no rule is violated.
        rules_violated: One is.
        calls: HTTP requests.
        prompt_tokens: Tokens the second guard read.
        cached_tokens: Those it had in its cache.
        completion_tokens: Tokens it wrote.
        seconds: Time spent waiting for it; text was held back meanwhile.
    """

    judged: int = 0
    asked_unsure: int = 0
    asked_rules: int = 0
    failed: int = 0
    refused: int = 0
    openings: int = 0
    is_open: bool = False
    agreed_safe: int = 0
    agreed_flagged: int = 0
    only_first: int = 0
    only_second: int = 0
    rules_kept: int = 0
    rules_violated: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    @property
    def agreement(self) -> float | None:
        """Share of the answered questions of `asked_unsure` in which both guards agreed; None without any."""
        answered = self.agreed_safe + self.agreed_flagged + self.only_first + self.only_second
        return (self.agreed_safe + self.agreed_flagged) / answered if answered else None


@runtime_checkable
class HasCascadeStatistics(Protocol):
    """A guard that asks for second opinions."""

    def statistics(self) -> CascadeStatistics:
        """Return what they have cost, and how often they agreed."""
        ...


_NAMES = frozenset(field.name for field in fields(CascadeStatistics))


class CascadeCounter:
    """Counts for all streams of a guard. Thread-safe."""

    def __init__(self) -> None:
        """Start at zero."""
        self._lock = threading.Lock()
        self._now = CascadeStatistics()

    def add(self, **counts: float) -> None:
        """Add to counts by name."""
        assert counts.keys() <= _NAMES, "there is no such count"
        with self._lock:
            values = {name: getattr(self._now, name) + value for name, value in counts.items()}
            self._now = replace(self._now, **values)

    def answered(self, usage: CallUsage, *, first: bool, second: bool, is_unsure: bool) -> None:
        """Count an answer.

        Args:
            usage: What it took.
            first: Whether the first guard would have flagged the text.
            second: Whether a rule is violated by the second.
            is_unsure: Whether it was asked because the first was unsure.
        """
        outcome = {
            (False, False): "agreed_safe",
            (True, True): "agreed_flagged",
            (True, False): "only_first",
            (False, True): "only_second",
        }[first, second]
        if not is_unsure:
            outcome = "rules_violated" if second else "rules_kept"
        self.add(
            **{outcome: 1},
            calls=usage.calls,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
        )

    def statistics(self) -> CascadeStatistics:
        """Return the counts so far."""
        with self._lock:
            return self._now
