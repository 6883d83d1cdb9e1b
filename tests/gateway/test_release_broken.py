"""The promise of mode `checked` where things break: late guards, clients that leave, errors, late and repeated text."""

import asyncio
from collections import Counter

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamward.gateway.call_record import CallRecord, EndReason
from streamward.gateway.config import GatewayLimits
from streamward.policy import Policy
from streamward.schema import Action
from tests.gateway.scripted import DONE, STRICT, Notebook, Script, call, chat, delta, event, gateway, texts_in
from tests.gateway.stalling import MovedLoop, StallingGuard, stall
from tests.gateway.test_endings import endings_in
from tests.gateway.test_release_chat import PIECES, TEXTS, cut, piece, said

CHOICES = 3
BROKEN = {
    "error": event({"error": {"message": "## broke", "code": 502}}),
    "error beside choices": event({"error": {"message": "##"}, "choices": [{"index": 0, "delta": {"content": "##"}}]}),
    "no json": b"data: ## no json\n\n",
    "no end": b"",
    "half an event": b'data: {"choices": [{"index": 0, "delta": {"content": "##',
    "end": DONE,
}
LATE = st.lists(
    st.one_of(
        st.builds(lambda text: event({"choices": [], "note": text}), TEXTS),
        st.builds(lambda index, text: delta(index, content=text), st.integers(0, 2), TEXTS),
        st.builds(lambda index, text: delta(index, content=text, reason="length"), st.integers(0, 2), TEXTS),
        st.builds(lambda index: delta(index, reason="stop"), st.integers(0, 2)),
        st.just(event({"choices": [], "usage": {"total_tokens": 3}})),
    ),
    max_size=4,
)


def repeated(pieces) -> list[bytes]:
    """Pieces, each beside all that its choice's text is so far."""
    parts, so_far = [], Counter[int]()
    texts: dict[int, str] = {}
    for index, name, text, logprobs in pieces:
        parts.append(piece(index, name, text, logprobs))
        if name == "content":
            texts[index] = texts.get(index, "") + text
            so_far[index] += 1
            choice = {"index": index, "delta": {}, "message": {"content": "x" * 70 + texts[index]}}
            parts.append(event({"choices": [choice]}))
    return parts


class Call:
    """One call whose guard stalls, and whose client leaves, at given moments; with a clock that jumps."""

    def __init__(self, script: Script, *, stalls_at: int, leaves_at: int, is_cancelled: bool, policy: Policy) -> None:
        self.data = b""
        self.notebook = Notebook()
        self._loop = MovedLoop()
        self._num_feeds = 0
        self._stalls_at, self._leaves_at, self._is_cancelled = stalls_at, leaves_at, is_cancelled
        self.guard = StallingGuard(before_feed=self._feed, before_finish=self._finish)
        limits = GatewayLimits(guard_timeout_s=5.0, overload_wait_s=0)
        self._gate = gateway(script, guard=self.guard, observer=self.notebook, limits=limits)
        self._request = call(chat(n=CHOICES), policy=policy)
        self._task: asyncio.Task[None] | None = None
        self._loop.run(self._run())

    @property
    def outcome(self) -> CallRecord:
        (outcome,) = self.notebook.outcomes
        return outcome

    async def _run(self) -> None:
        self._task = asyncio.create_task(self._read())
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()
        await self._gate.aclose()

    async def _read(self) -> None:
        async with self._gate.answer(self._request) as answer:
            assert answer.events is not None
            num_parts = 0
            async for part in answer.events:
                self.data += part
                num_parts += 1
                if num_parts == self._leaves_at:
                    return

    async def _feed(self, text: str) -> None:
        self._num_feeds += 1
        if self._is_cancelled and self._num_feeds == self._leaves_at:
            assert self._task is not None
            self._task.cancel()
            await asyncio.sleep(0)
        if self._num_feeds == self._stalls_at:
            await self._stall()

    async def _finish(self) -> None:
        if self._stalls_at % 3 == 2:
            await self._stall()

    async def _stall(self) -> None:
        self._loop.skew_s += 10
        await stall()


def assert_all_agree(made: Call, *, blocks: bool) -> None:
    """The client got at most one end for each choice, and what was told is what it got."""
    endings = Counter(index for index, _ in endings_in(made.data))
    assert not [index for index, times in endings.items() if times > 1]
    assert made.guard.num_open == 0
    outcome = made.outcome
    for part in outcome.parts:
        assert 0 <= part.num_judged_chars <= len(part.text)
        assert 0 <= part.num_shown_chars <= len(part.text)
        if blocks:
            assert part.num_shown_chars <= part.num_judged_chars
        assert (part.judgement is None) <= (part.num_judged_chars <= 1)
    if outcome.ending not in (EndReason.COMPLETE, EndReason.RESPONSE_BLOCKED, EndReason.GUARD_FAILED):
        return
    stopped = {part.name for part in outcome.parts if part.decision.action is Action.BLOCK}
    for index, reason in endings_in(made.data):
        has_parts = str(index) in {part.name for part in outcome.parts}
        assert (reason == "content_filter") == (str(index) in stopped or (not has_parts and "envelope" in stopped))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pieces=PIECES,
    late=LATE,
    ending=st.sampled_from(sorted(BROKEN)),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=3),
    stalls_at=st.integers(0, 12),
    leaves_at=st.integers(0, 12),
    is_cancelled=st.booleans(),
    is_repeated=st.booleans(),
)
@example([(0, "content", "hi", "")], [delta(0, content="#", reason="stop")], "end", [400], 0, 0, False, True)
@example([(0, "content", "hi", ""), (1, "unknown", "#", "")], [], "error", [1], 2, 0, False, True)
@example([(0, "content", "a" * 3000 + "##", "")], [], "end", [400], 4, 0, False, False)
@example([(0, "content", "a" * 3000 + "#", "")], [], "end", [5000], 4, 2, True, False)
def test_nothing_flagged_leaves_and_all_agree_whatever_breaks(
    pieces, late, ending, sizes, stalls_at, leaves_at, is_cancelled, is_repeated
):
    parts = repeated(pieces) if is_repeated else [piece(*each) for each in pieces]
    body = b"".join([*parts, *(delta(index, reason="stop") for index in range(CHOICES)), *late, BROKEN[ending]])
    script = Script(*cut(body, sizes))
    made = Call(script, stalls_at=stalls_at, leaves_at=leaves_at, is_cancelled=is_cancelled, policy=STRICT)
    assert b"##" not in made.data
    assert script.is_closed
    upstream = said(pieces)
    for path, text in texts_in(made.data).items():
        assert "##" not in text
        if not late:
            assert upstream[path].replace("##", "#").startswith(text.replace("##", "#"))
    assert_all_agree(made, blocks=True)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=PIECES, late=LATE, stalls_at=st.integers(1, 8))
def test_where_the_policy_lets_unjudged_text_through_all_agree_too(pieces, late, stalls_at):
    lenient = Policy.parse({"name": "l", "on_error": {"response": "flag"}}, source="test")
    body = [piece(*each) for each in pieces] + [delta(index, reason="stop") for index in range(CHOICES)]
    script = Script(*body, *late, DONE)
    made = Call(script, stalls_at=stalls_at, leaves_at=0, is_cancelled=False, policy=lenient)
    assert made.data.endswith(DONE)
    assert_all_agree(made, blocks=False)
