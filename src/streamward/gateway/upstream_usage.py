"""Tokens of all upstream calls that one answer took."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamward.gateway.strict_json import JsonObject

_PROMPT = ("prompt_tokens", "input_tokens")
_COMPLETION = ("completion_tokens", "output_tokens")


@dataclass(slots=True)
class _Call:
    usage: Mapping[str, object] | None
    num_read: int


@dataclass(slots=True)
class UpstreamUsage:
    """Adds up what the upstream says of each call. What it does not say of a call that was cancelled is estimated.

    An estimate takes the guard's tokens of the text that came for the completion, and the fewest prompt tokens that
    another call of the answer stated for the prompt.
    """

    first: Mapping[str, object] | None = None
    """Last usage that the upstream stated for the client's own call."""
    _calls: list[_Call] = field(default_factory=list)

    def add(self, usage: Mapping[str, object] | None, *, num_read: int) -> None:
        """Take in a call that is over.

        Args:
            usage: What the upstream said last.
            num_read: Tokens of the guard in its text.
        """
        self._calls.append(_Call(usage, num_read))

    @property
    def num_calls(self) -> int:
        """Calls besides the client's own."""
        return len(self._calls)

    def is_estimated(self, *, num_read_first: int) -> bool:
        """Return whether a part of the total is an estimate; `num_read_first` as for `total`."""
        return any(_count(each.usage, _COMPLETION) is None for each in self._all(num_read_first))

    def total(self, *, num_read_first: int) -> JsonObject:
        """Return the sum, with the names of chat completions.

        Args:
            num_read_first: Tokens of the guard in the text of the client's own call.
        """
        calls = self._all(num_read_first)
        stated = [count for each in calls if (count := _count(each.usage, _PROMPT)) is not None]
        prompt = completion = 0
        for each in calls:
            count = _count(each.usage, _COMPLETION)
            completion += each.num_read if count is None else count
            asked = _count(each.usage, _PROMPT)
            prompt += min(stated, default=0) if asked is None else asked
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _all(self, num_read_first: int) -> list[_Call]:
        return [_Call(self.first, num_read_first), *self._calls]


def _count(usage: Mapping[str, object] | None, names: tuple[str, ...]) -> int | None:
    found = (usage.get(name) for name in names) if usage is not None else iter(())
    return next((value for value in found if type(value) is int and value >= 0), None)
