"""Chooses the tokens of a step (short appends before prefill): fair between owners, then between their sequences."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from streamward.engine.config import EngineConfig
from streamward.engine.sequence import TokenSequence

SHORT_TOKENS = 32
"""A sequence with at most this many pending tokens is a short append; one with more is a long text (a prefill)."""
_RECENT_STEPS = 16  # an owner who appended within this many steps is expected to append again


class ScheduledSequence(NamedTuple):
    """A sequence and how many of its pending tokens a step processes."""

    sequence: TokenSequence
    num_tokens: int


class Scheduler:
    """Divides the token budget of a step: short appends first, chunked prefill with what is left.

    Long texts get at most `max_long_tokens` while somebody waits for a short append or is expected to make one: an
    owner who has just appended, and has no long text himself, should find a short step under way when he appends next.
    Both parts of the budget are divided equally between the owners who ask for them, so fifty long texts of one owner
    slow the others down no more than one long text does.
    """

    def __init__(self, config: EngineConfig) -> None:
        """Start without a memory of who appended."""
        self._token_budget = config.max_batch_tokens
        self._long_token_budget = config.max_long_tokens
        self._num_steps = 0
        self._appended: dict[str | None, int] = {}  # owners of short appends, and the step of the last one

    def schedule(self, sequences: Sequence[TokenSequence]) -> list[ScheduledSequence]:
        """Return how many of its pending tokens each sequence gets into the next step; those with none are left out.

        Args:
            sequences: Those with pending tokens, the one that has waited longest first.
        """
        owned: dict[str | None, list[int]] = {}
        for index, sequence in enumerate(sequences):
            owned.setdefault(sequence.owner, []).append(index)
        demands = [sequence.num_pending for sequence in sequences]
        short = [sum(demands[index] for index in own if demands[index] <= SHORT_TOKENS) for own in owned.values()]
        long = [sum(demands[index] for index in own if demands[index] > SHORT_TOKENS) for own in owned.values()]
        self._note([owner for owner, total in zip(owned, short, strict=True) if total])
        prefilling = {owner for owner, total in zip(owned, long, strict=True) if total}
        expects_appends = any(short) or bool(self._appended.keys() - prefilling)
        long = fair_shares(long, budget=self._long_token_budget if expects_appends else self._token_budget)
        totals = fair_shares([sum(both) for both in zip(short, long, strict=True)], budget=self._token_budget)
        granted = [0] * len(sequences)
        for own, total in zip(owned.values(), totals, strict=True):
            for index, count in _divided(own, demands, total):
                granted[index] = count
        return [ScheduledSequence(each, count) for each, count in zip(sequences, granted, strict=True) if count]

    def _note(self, owners: Sequence[str | None]) -> None:
        self._num_steps += 1
        self._appended |= dict.fromkeys(owners, self._num_steps)
        oldest = self._num_steps - _RECENT_STEPS
        self._appended = {owner: step for owner, step in self._appended.items() if step > oldest}


def _divided(own: Sequence[int], demands: Sequence[int], budget: int) -> Iterator[tuple[int, int]]:
    """Divide one owner's budget between his sequences, short appends first."""
    for is_short in (True, False):
        members = [index for index in own if (demands[index] <= SHORT_TOKENS) is is_short]
        for index, count in zip(members, fair_shares([demands[each] for each in members], budget=budget), strict=True):
            yield index, count
            budget -= count


def fair_shares(demands: Sequence[int], *, budget: int) -> list[int]:
    """Divide a number of tokens max-min fairly: nobody gets more than he asks for, and the rest goes to the others.

    If there are more demands than tokens, the first ones get one token each, so callers put those first that have
    waited longest.
    """
    granted = [0] * len(demands)
    in_line = [index for index, demand in enumerate(demands) if demand][:budget]
    waiting = sorted(in_line, key=lambda index: demands[index])
    for rank, index in enumerate(waiting):
        granted[index] = min(demands[index], budget // (len(waiting) - rank))
        budget -= granted[index]
    return granted
