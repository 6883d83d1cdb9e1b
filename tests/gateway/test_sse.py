"""Server-sent events in any cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamward.errors import UpstreamError
from streamward.gateway.sse import EventParser, encode

STREAM = "\ufeff: hello\ndata: one\nevent: x\n\nid: 7\ndata:two\ndata: é漢😀\n\nretry: 3\n\ndata\n\ndata: last"
EVENTS = [None, "one", "two\né漢😀", "", "last"]


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_events_are_the_same_in_any_cut(sizes, line_end):
    data = STREAM.replace("\n", line_end).encode()
    parser, found, start, turn = EventParser(1000), [], 0, 0
    while start < len(data):
        size = sizes[turn % len(sizes)]
        found += parser.feed(data[start : start + size])
        start, turn = start + size, turn + 1
    assert [event.data for event in [*found, *parser.finish()]] == EVENTS


def test_an_event_is_out_as_soon_as_it_is_complete():
    assert [event.data for event in EventParser(1000).feed(b"data: one\r\n\r\n")] == ["one"]


@pytest.mark.parametrize("data", [b"data: " + b"x" * 200, b"data: x\n" * 60])
def test_an_event_without_end_is_refused(data):
    with pytest.raises(UpstreamError, match="100 bytes"):
        EventParser(100).feed(data)


def test_a_long_line_in_small_pieces_is_joined_once():
    line, joined = b"data: " + b"x" * 2**20, []

    class Counted(bytes):
        def splitlines(self, keepends=False):
            joined.append(len(self))
            return super().splitlines(keepends)

        def __radd__(self, other):
            return Counted(bytes(other) + bytes(self))

    parser = EventParser(2**21)
    for start in range(0, len(line), 64):
        assert parser.feed(Counted(line[start : start + 64])) == []
    (event,) = parser.feed(Counted(b"\n\n"))
    assert event.data == "x" * 2**20
    assert joined == [len(line) + 2]


def test_bytes_that_are_no_utf_8_become_replacement_characters():
    assert [event.data for event in EventParser(1000).feed(b"data: a\xffb\n\n")] == ["a\ufffdb"]


def test_what_is_written_stays_one_event():
    written = encode({"text": "a\n\ndata: b\r\u2028\u2029\x85"}, name="x")
    assert len(written.decode().splitlines()) == 3
    expected = '{"text":"a\\n\\ndata: b\\r\\u2028\\u2029\\u0085"}'
    assert [event.data for event in EventParser(1000).feed(written)] == [expected]


BROKEN_OUT = {
    "a field": ('error: {"code": 1}\n\n', [('{"code": 1}', "error", False)]),
    "a name": ('event: error\ndata: {"code": 1}\n\n', [('{"code": 1}', "error", False)]),
    "raw": ('data: a\n\n{"error": 1}\n', [("a", "", False), ('{"error": 1}', "", True)]),
    "raw before the end": ('{"error": 1}\ndata: a\n\n', [('{"error": 1}', "", True), ("a", "", False)]),
    "raw over lines": ('data: a\n\n{\n "error": {\n}\n}', [("a", "", False), ('{\n "error": {\n}\n}', "", True)]),
    "a name is forgotten": ("event: error\n\ndata: a\n\n", [("a", "", False)]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_OUT)
def test_errors_outside_of_data_are_found_in_any_cut(name):
    text, expected = BROKEN_OUT[name]
    data = text.encode()
    for size in (1, 3, 1000):
        parser, found = EventParser(1000), []
        for start in range(0, len(data), size):
            found += parser.feed(data[start : start + size])
        found += parser.finish()
        assert [(event.data, event.name, event.is_stray) for event in found] == expected
