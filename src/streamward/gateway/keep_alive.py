"""Signs of life in a stream that has nothing to say."""

import asyncio
from collections.abc import AsyncGenerator

from streamward.gateway.sse import KEEP_ALIVE


async def kept_alive(events: AsyncGenerator[bytes, None], *, every_s: float) -> AsyncGenerator[bytes, None]:
    """Yield the events, and a comment whenever none has come for so long. Closing it closes them too."""
    try:
        while True:
            waiting = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait({waiting}, timeout=every_s))[0]:
                    yield KEEP_ALIVE
            finally:
                await _ended(waiting)
            event = waiting.result()
            if event is None:
                return
            yield event
    finally:
        await events.aclose()


async def _ended(waiting: asyncio.Future[bytes | None]) -> None:
    """Cancel a step that is not over, and wait until it is."""
    if not waiting.done():
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
