"""Walks down a ladder for one answer, and reports on it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from streamward.ladder import LadderAction, LadderStep
from streamward.schema import Category

InterventionOutcome = Literal["continued", "refused", "stopped"]
"""continued: text came through that the guard let pass. refused, stopped: the answer ended."""


@dataclass(frozen=True, slots=True)
class InterventionRecord:
    """One flag in an answer, and what was done about it.

    Attributes:
        at_char: Character of the final answer at which it was changed.
        action: The step that ended it; the last one tried.
        outcome: How it ended.
        category: The kind of harm that was flagged; None if the guard named none, or failed.
        attempts: Steps tried, each attempt counted.
        dropped_tokens: Tokens of the guard that were dropped, those of failed attempts included.
        wait_tokens: Tokens of the guard that were read from the last text that left before the flag to the first one
            that left after it.
        wait_ms: Time from the flag to that first text, or to the end.
    """

    at_char: int
    action: LadderAction
    outcome: InterventionOutcome
    category: Category | None
    attempts: int
    dropped_tokens: int
    wait_tokens: int
    wait_ms: float


class LadderWalk:
    """Steps left of a ladder in one answer. What was used up stays so when the answer is flagged again."""

    def __init__(self, ladder: Sequence[LadderStep]) -> None:
        """Start at the top."""
        self._steps = list(ladder)
        self._left = [step.attempts for step in ladder]

    def next(self, is_possible: Callable[[LadderStep], bool]) -> LadderStep | None:
        """Return the next possible step, and count the attempt; None if nothing is left."""
        for index, step in enumerate(self._steps):
            if self._left[index] and is_possible(step):
                self._left[index] -= 1
                return step
        return None

    def attempt_of(self, step: LadderStep) -> int:
        """Return how many attempts of a step were made."""
        index = next(index for index, each in enumerate(self._steps) if each is step)
        return step.attempts - self._left[index]


class InterventionEpisode:
    """From a flag to the next text that leaves, or to the end of the answer."""

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin with the flag."""
        self._clock = clock
        self._started = clock()
        self.attempts = 0
        """Steps tried."""
        self.dropped_tokens = 0
        """Tokens dropped."""
        self.wait_tokens = 0
        """Tokens read since the last text left."""
        self.category: Category | None = None
        """The kind of harm, of the last flag."""
        self.at_char = 0
        """Place at which the answer was changed; the first of the cuts."""
        self.action: LadderAction = LadderAction.STOP
        """The step that is being tried."""
        self._is_cut = False

    def cut(self, at_char: int, *, num_tokens: int, category: Category | None) -> None:
        """Note that text was dropped from a character on."""
        self.at_char = min(self.at_char, at_char) if self._is_cut else at_char
        self._is_cut = True
        self.dropped_tokens += num_tokens
        self.category = category

    def attempt(self, action: LadderAction) -> None:
        """Note that a step is tried."""
        self.action = action
        self.attempts += 1

    def ended(self, outcome: InterventionOutcome) -> InterventionRecord:
        """Return the record of it."""
        return InterventionRecord(
            at_char=self.at_char,
            action=self.action,
            outcome=outcome,
            category=self.category,
            attempts=self.attempts,
            dropped_tokens=self.dropped_tokens,
            wait_tokens=self.wait_tokens,
            wait_ms=(self._clock() - self._started) * 1000,
        )
