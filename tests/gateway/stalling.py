"""A guard that takes its time, and an event loop whose clock a test moves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from streamward.moderation.async_stream import AsyncGuardStream
from tests.gateway.scripted import ScriptedGuard


class MovedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time can be moved on."""

    skew_s = 0.0

    def time(self) -> float:
        return super().time() + self.skew_s

    def run(self, work: Awaitable[Any]) -> Any:
        try:
            return self.run_until_complete(work)
        finally:
            self.run_until_complete(self.shutdown_asyncgens())
            self.close()


async def stall() -> None:
    """Never come to an end."""
    await asyncio.Event().wait()


class StallingGuard(ScriptedGuard):
    """The guard that flags `#`; it never comes to an end with a piece that has `~` in it.

    Args:
        before_feed: Awaited with each piece, before it is judged.
        before_finish: Awaited before the end is judged.
    """

    def __init__(
        self,
        *,
        before_feed: Callable[[str], Awaitable[None]] | None = None,
        before_finish: Callable[[], Awaitable[None]] | None = None,
        **fields,
    ) -> None:
        super().__init__(**fields)
        self.before_feed = before_feed
        self.before_finish = before_finish

    def open(self, messages, policy):
        return _Stalling(self, super().open(messages, policy))


class _Stalling:
    def __init__(self, guard: StallingGuard, inner: AsyncGuardStream) -> None:
        self._guard = guard
        self._inner = inner

    async def __aenter__(self):
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self._inner.__aexit__(*error)

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def feed(self, piece: str):
        if self._guard.before_feed is not None:
            await self._guard.before_feed(piece)
        if "~" in piece:
            await stall()
        return await self._inner.feed(piece)

    async def finish(self):
        if self._guard.before_finish is not None:
            await self._guard.before_finish()
        return await self._inner.finish()
