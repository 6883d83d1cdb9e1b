"""The text of a response with what the first guard says of it, and which part of it a second guard has to see."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from streamward.moderation.sentences import sentence_ends
from streamward.moderation.uncertainty import risk
from streamward.policy import Policy
from streamward.policy_guards.config import SecondOpinionConfig
from streamward.schema import Action, Event, Message, Role, Side, Verdict


class _UnsureToken(NamedTuple):
    position: int
    start: int
    end: int
    is_flagged: bool  # flagged by the first guard at its own operating point


class Question(NamedTuple):
    """A part of a response to ask about.

    Attributes:
        end: Index behind its last character; the guard sees the response up to there.
        is_unsure: Whether the first guard is unsure of a token in it.
        is_flagged: Whether the first guard would have flagged it.
    """

    end: int
    is_unsure: bool
    is_flagged: bool


class CascadeText:
    """The text of a cascade: fed, cleared and still to be asked about. Text before `cleared` may be shown.

    A feed costs what is held back, however long the response.
    """

    def __init__(self, policy: Policy, config: SecondOpinionConfig, *, lower: float, has_rules: bool) -> None:
        """Start with nothing.

        Args:
            policy: In force, not the first guard's.
            config: When the second guard is asked.
            lower: Probability of harm at and over which the first guard is unsure.
            has_rules: Whether every text must be asked about.
        """
        self.cleared = 0
        """Index of the first character that may not be shown yet."""
        self.num_chars = 0
        """Characters so far."""
        self.reasoning_end = 0
        """Index of the first character of the answer, behind the reasoning."""
        self.num_parts = 0
        """Sentences that were cleared, and questions that were, for the count."""
        self._side = policy.side(Side.RESPONSE)
        self._consecutive_tokens = policy.consecutive_tokens(Side.RESPONSE)
        self._config = config
        self._lower = lower
        self._has_rules = has_rules
        self._before: list[str] = []  # text that is cleared, in pieces
        self._held = ""  # the text behind the cleared one
        self._ends: list[int] = []  # end of each token
        self._unsure: list[_UnsureToken] = []  # unsure tokens that end behind the cleared text
        self._num_questions = 0

    def append(self, text: str) -> None:
        """Take in characters, before they are judged."""
        self._held += text
        self.num_chars += len(text)

    def observe(self, events: Sequence[Event]) -> None:
        """Take in what the first guard says of tokens; a position seen before replaces it and what came behind."""
        for event in events:
            verdict = event.verdict
            del self._ends[verdict.position :]
            while self._unsure and self._unsure[-1].position >= verdict.position:
                self._unsure.pop()
            start, end = verdict.span or (0, 0)
            self._ends.append(end)
            if risk(self._side, verdict.probabilities, verdict.category) >= self._lower:
                token = _UnsureToken(verdict.position, start, max(end, start + 1), self._is_flagged(verdict))
                self._unsure.append(token)

    def truncate(self, num_chars: int) -> None:
        """Keep the first characters only, and what the first guard said of tokens that end within them."""
        text = "".join(self._before) + self._held
        self.cleared = min(self.cleared, num_chars)
        self._before, self._held = [text[: self.cleared]], text[self.cleared : num_chars]
        self.num_chars = num_chars
        self.reasoning_end = min(self.reasoning_end, num_chars)
        del self._ends[bisect_right(self._ends, num_chars) :]
        self._unsure = [token for token in self._unsure if token.position < len(self._ends)]

    def position_at(self, char: int) -> int | None:
        """Return the last token that ends at or before a character; None if there is none."""
        position = bisect_right(self._ends, char) - 1
        return position if position >= 0 else None

    def message(self, end: int) -> Message:
        """Return the assistant's turn up to a character, which is not before the cleared text's end."""
        text = "".join(self._before) + self._held[: end - self.cleared]
        return Message(Role.ASSISTANT, text[self.reasoning_end :], text[: self.reasoning_end] or None)

    def next_question(self, judged: int, *, is_final: bool, may_ask: bool = True) -> Question | None:
        """Clear what needs no second opinion, and return what to ask next; None if there is nothing to ask now.

        Args:
            judged: Characters that the first guard has let through.
            is_final: Whether no more text will come.
            may_ask: Whether a question would be asked now; if not, only what needs none is cleared.
        """
        start = next((token.start for token in self._unsure if token.end > self.cleared), judged)
        first = None if start >= judged else max(start, self.cleared)
        ends = [self.cleared + end for end in sentence_ends(self._held[: max(0, judged - self.cleared)])]
        if not self._has_rules:
            self._clear_sure(judged if first is None else first, ends, is_final=is_final and first is None)
        if self.cleared >= judged or (first is None and not self._has_rules):
            return None
        if first is None and not self._held[: judged - self.cleared].strip():  # the text is blank
            if is_final:
                self._clear_to(judged)
            return None
        end = judged if is_final else self._end_of_question(judged, first, ends)
        if end is None or not may_ask:
            return None
        self._num_questions += 1
        tokens = [token for token in self._unsure if token.end > self.cleared and token.start < end]
        return Question(end, bool(tokens), _longest_run(tokens) >= self._consecutive_tokens)

    def clear(self, question: Question) -> None:
        """Let the text of a question be shown."""
        self._clear_to(question.end)
        self.num_parts += 1

    def withdraw(self) -> None:
        """Take back the last question, which was not answered."""
        self._num_questions -= 1

    def _clear_sure(self, end: int, ends: Sequence[int], *, is_final: bool) -> None:
        """Clear what is sure up to a place: all of it, or its whole sentences."""
        if self._config.hold == "sentence" and not is_final:
            end = max((each for each in ends if each <= end), default=self.cleared)
        if end > self.cleared:
            self.num_parts += sum(each <= end for each in ends)
            self._clear_to(end)

    def _clear_to(self, end: int) -> None:
        num_new = end - self.cleared
        self._before.append(self._held[:num_new])
        self._held = self._held[num_new:]
        self.cleared = end
        self._unsure = [token for token in self._unsure if token.end > end]

    def _end_of_question(self, judged: int, first: int | None, ends: Sequence[int]) -> int | None:
        """Return where to cut: behind the last sentence, or anywhere if there is too much without an end."""
        config = self._config
        if self._num_questions >= config.max_calls - 1:
            return None  # the last question is kept for the end
        needed = config.min_chars << max(0, self._num_questions - config.max_calls // 2)
        after = self.cleared if first is None else first
        end = max((each for each in ends if each > after), default=None)
        if end is not None and end - self.cleared >= needed:
            return end
        return judged if judged - self.cleared >= max(needed, config.max_held_chars) else None

    def _is_flagged(self, verdict: Verdict) -> bool:
        return self._side.action(self._side.level(verdict), verdict.category) is not Action.ALLOW


def _longest_run(tokens: Sequence[_UnsureToken]) -> int:
    """Return how many successive tokens are flagged at most."""
    longest = run = 0
    last = None
    for token in tokens:
        run = (run + 1 if last == token.position - 1 else 1) if token.is_flagged else 0
        longest, last = max(longest, run), token.position
    return longest
