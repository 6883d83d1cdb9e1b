"""From votes to labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from streamward.schema import Category, RiskLevel
from streamward.train.label.votes import SideVote, Vote

Ties = Literal["unlabelled", "severe", "controversial"]


@dataclass(frozen=True, slots=True)
class SideLabel:
    """The outcome of the votes on one side.

    Attributes:
        level: None if too few judges answered, or if a tie leaves it open.
        categories: The most frequent kinds of harm among judges that do not say Safe, all of them if several are
            equally frequent; empty if the level is Safe or open.
        is_tie: Whether no level had more votes than every other.
    """

    level: RiskLevel | None = None
    categories: tuple[Category, ...] = ()
    is_tie: bool = False


def side_label(words: Sequence[SideVote], *, min_votes: int, ties: Ties) -> SideLabel:
    """Return the level with the most votes."""
    if len(words) < min_votes or not words:
        return SideLabel()
    counts = Counter(word.level for word in words)
    most = max(counts.values())
    leading = [level for level, number in counts.items() if number == most]
    is_tie = len(leading) > 1
    level = _break_tie(leading, ties) if is_tie else leading[0]
    if level is None or level is RiskLevel.SAFE:
        return SideLabel(level, (), is_tie)
    named = Counter(word.category for word in words if word.category is not None and word.level is not RiskLevel.SAFE)
    top = max(named.values(), default=0)
    return SideLabel(level, tuple(category for category in Category if top and named[category] == top), is_tie)


def refusal_label(votes: Sequence[Vote]) -> bool | None:
    """Return the more frequent answer of the judges that say; None if none does, or if both are as frequent."""
    counts = Counter(vote.refusal for vote in votes if vote.refusal is not None)
    return None if counts[True] == counts[False] else counts[True] > counts[False]


def _break_tie(leading: Sequence[RiskLevel], ties: Ties) -> RiskLevel | None:
    if ties == "unlabelled":
        return None
    if ties == "controversial":
        return RiskLevel.CONTROVERSIAL
    return max(leading, key=lambda level: level.severity)
