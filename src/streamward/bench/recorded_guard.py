"""A guard that judges the same beginning of the same answer once, however many variants of a benchmark ask."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from streamward.moderation.moderator import Moderator
from streamward.moderation.response_stream import ResponseStream
from streamward.policy import Policy
from streamward.schema import Decision, Event


class _StreamCall(NamedTuple):
    kind: Literal["feed", "truncate", "finish"]
    text: str = ""
    num_chars: int = 0


@dataclass(slots=True)
class _State:
    """State of a stream after some calls, and the states that further ones lead to."""

    decision: Decision
    releasable_chars: int
    events: Sequence[Event] = ()
    after: "dict[_StreamCall, _State]" = field(default_factory=dict)


class RecordedGuard:
    """Opens streams that repeat what the guard said of the same prompt after the same calls."""

    def __init__(self, guard: Moderator) -> None:
        """Record nothing yet."""
        self.num_judged = 0
        """Tokens that the guard itself judged."""
        self._guard = guard
        self._roots: dict[str, _State] = {}

    @property
    def policy(self) -> Policy:
        """The guard's policy."""
        return self._guard.policy

    def stream(self, prompt: str | None = None, messages: object = None) -> "RecordedStream":
        """Open a stream behind a prompt."""
        assert prompt is not None and messages is None, "a benchmark's conversations have one turn"
        opened = None
        if prompt not in self._roots:
            opened = self._guard.stream(prompt)
            self._roots[prompt] = _State(opened.decision, opened.releasable_chars)
        return RecordedStream(self, prompt, self._roots[prompt], opened)

    def open(self, prompt: str) -> ResponseStream:
        """Open a stream of the guard itself."""
        return self._guard.stream(prompt)


class RecordedStream:
    """One response. The guard's own stream is opened, and brought up to date, where something new is asked."""

    def __init__(self, guard: RecordedGuard, prompt: str, root: _State, opened: ResponseStream | None) -> None:
        """Made by the guard."""
        self._guard = guard
        self._prompt = prompt
        self._state = root
        self._calls: list[_StreamCall] = []
        self._opened = opened
        self._num_made = 0  # calls that the opened stream has seen

    @property
    def decision(self) -> Decision:
        """As of a `GuardStream`."""
        return self._state.decision

    @property
    def releasable_chars(self) -> int:
        """As of a `GuardStream`."""
        return self._state.releasable_chars

    def masked(self, start: int, end: int) -> str | None:
        """Return None: the policy has no detectors."""
        return None

    def feed(self, piece: str) -> Sequence[Event]:
        """As of a `GuardStream`."""
        return self._make(_StreamCall("feed", piece))

    def truncate(self, num_chars: int) -> Sequence[Event]:
        """As of a `GuardStream`."""
        return self._make(_StreamCall("truncate", num_chars=num_chars))

    def finish(self) -> None:
        """As of a `GuardStream`."""
        self._make(_StreamCall("finish"))

    def close(self) -> None:
        """Close the guard's own stream."""
        if self._opened is not None:
            self._opened.close()

    def _make(self, call: _StreamCall) -> Sequence[Event]:
        self._calls.append(call)
        after = self._state.after.get(call)
        if after is None:
            stream, events = self._catch_up()
            after = _State(stream.decision, stream.releasable_chars, events)
            self._state.after[call] = after
        self._state = after
        return after.events

    def _catch_up(self) -> tuple[ResponseStream, Sequence[Event]]:
        """Make the calls that the guard's own stream has not seen; return the events of the last."""
        stream = self._opened = self._opened or self._guard.open(self._prompt)
        events: Sequence[Event] = ()
        *missed, last = self._calls[self._num_made :]
        text = ""
        for call in missed:  # what is fed in one piece is judged as if it came in several, and in one pass
            if call.kind == "feed":
                text += call.text
                continue
            if text:
                stream.feed(text)
                text = ""
            _apply(stream, call)
        if text:
            stream.feed(text)
        events = _apply(stream, last)
        self._guard.num_judged += len(events)
        self._num_made = len(self._calls)
        return stream, events


def _apply(stream: ResponseStream, call: _StreamCall) -> Sequence[Event]:
    match call.kind:
        case "feed":
            return stream.feed(call.text)
        case "truncate":
            return stream.truncate(call.num_chars)
        case "finish":
            stream.finish()
            return ()
