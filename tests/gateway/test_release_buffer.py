"""What waits for several guard streams at once."""

import asyncio
import sys

import pytest

from streamward.decisions import ALLOWED
from streamward.gateway.field_router import FieldPosition
from streamward.gateway.release_buffer import Chunk, ReleaseBuffer
from streamward.gateway.text_fields import Kind, Text, TextField


class SlowReader:
    """Has let so many characters through, and lets all through once it has failed: `on_error` is allow."""

    decision, is_waiting, is_open, is_stopped = ALLOWED, False, False, False

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.errors: list[str] = []

    def fail(self, error) -> None:
        self.errors.append(error.code)
        self.limit = sys.maxsize

    def note_shown(self, end: int) -> None:
        pass


class OnePlace:
    """Puts every text at the same place."""

    def __init__(self, place: FieldPosition) -> None:
        self.readers = {0: [place.reader]}
        self._place = place

    async def place_all(self, slots):
        return [self._place for _ in slots]

    def decision_of(self, group: int):
        return ALLOWED


@pytest.mark.parametrize(("limit", "beside"), [(3, 0), (0, 3), (0, 0)])
def test_where_too_much_waits_every_guard_that_is_behind_gives_up_and_no_other(limit, beside):
    readers = [SlowReader(limit), SlowReader(beside)]
    place = FieldPosition(readers[0], 0, 3, FieldPosition(readers[1], 0, 3))  # as it is used
    buffer = ReleaseBuffer(OnePlace(place), max_held_bytes=10)  # as above
    body: dict[str, object] = {"text": "abc"}
    slot = TextField(body, "text", "abc", (0, "text"), Kind.UNKNOWN, Text())

    async def hold() -> list[Chunk]:
        await buffer.take([Chunk(body, [slot], 0, size=11)])
        assert buffer.release() == []
        await buffer.judge()
        return buffer.release()

    assert [chunk.body for chunk in asyncio.run(hold())] == [body]
    assert [reader.errors for reader in readers] == [["overloaded"] * (limit == 0), ["overloaded"] * (beside == 0)]
