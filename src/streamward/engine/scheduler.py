"""Which tokens one step reads: fair between owners first, then between the streams of each."""

from collections.abc import Sequence

from streamward.engine.stream import Stream

SHORT_TOKENS = 32
"""A stream with at most so many tokens waiting is being appended to; one with more is a text being read in."""


def schedule(streams: Sequence[Stream], *, most: int, most_long: int) -> list[tuple[Stream, int]]:
    """Return how many of its waiting tokens each stream may have read in the next step; streams with none are left out.

    Short appends come first. What is left goes to long texts, `most_long` tokens at most while short appends wait.
    Each owner gets an equal part of both as far as it asks for one, so that an owner of fifty long texts slows the
    others down no more than an owner of one.

    Args:
        streams: Those with tokens to read, the one that waited longest first.
        most: Limit of a step, in tokens.
        most_long: Limit for long texts while short appends wait.
    """
    demands = [stream.num_unread for stream in streams]
    owned: dict[str | None, list[int]] = {}
    for index, stream in enumerate(streams):
        owned.setdefault(stream.owner, []).append(index)
    short = [sum(demands[index] for index in own if demands[index] <= SHORT_TOKENS) for own in owned.values()]
    long = [sum(demands[index] for index in own if demands[index] > SHORT_TOKENS) for own in owned.values()]
    long = shares(long, total=most_long if any(short) else most)
    totals = shares([sum(both) for both in zip(short, long, strict=True)], total=most)
    granted = [0] * len(streams)
    for own, total in zip(owned.values(), totals, strict=True):
        for is_short in (True, False):
            members = [index for index in own if (demands[index] <= SHORT_TOKENS) is is_short]
            for index, count in zip(members, shares([demands[each] for each in members], total=total), strict=True):
                granted[index] = count
                total -= count
    return [(stream, count) for stream, count in zip(streams, granted, strict=True) if count]


def shares(demands: Sequence[int], *, total: int) -> list[int]:
    """Divide a number of tokens: nobody gets more than he asks for, and what he leaves goes to the others.

    Of more than `total` the first in line get one token each, so callers put those that waited longest first.
    """
    granted = [0] * len(demands)
    in_line = [index for index, demand in enumerate(demands) if demand][:total]
    waiting = sorted(in_line, key=lambda index: demands[index])
    for rank, index in enumerate(waiting):
        granted[index] = min(demands[index], total // (len(waiting) - rank))
        total -= granted[index]
    return granted
