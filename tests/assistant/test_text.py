"""Bytes to text, up to a stop sequence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamward.assistant.text import TextWriter


def write(pieces, stops=()):
    writer = TextWriter(stops)
    texts = [writer.feed(piece) for piece in pieces]
    return [*texts, writer.feed(b"", is_last=True)], writer.is_stopped


def test_half_a_character_waits_for_its_other_half():
    assert write([b"a\xc3", b"\xa9b"]) == (["a", "éb", ""], False)


def test_a_character_that_never_ends_becomes_a_replacement():
    assert write([b"a\xc3"]) == (["a", "\ufffd"], False)


def test_nothing_of_a_stop_sequence_is_shown():
    assert write([b"one E", b"N", b"D two"], stops=["END"]) == (["one ", "", "", ""], True)


def test_what_only_looked_like_a_stop_sequence_is_shown():
    assert write([b"one E", b"N", b"x"], stops=["END"]) == (["one ", "", "ENx", ""], False)
    assert write([b"one EN"], stops=["END"]) == (["one ", "EN"], False)


def test_the_first_of_several_stop_sequences_counts():
    assert write([b"abcdef"], stops=["e", "c", ""]) == (["ab", ""], True)


@given(
    st.text(alphabet="ab", max_size=20), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3), st.data()
)
def test_the_cuts_do_not_matter(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end].encode() for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    texts, is_stopped = write(pieces, stops)
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    assert is_stopped == bool(found)
    if len(stops) <= 1:  # with several, the one that is complete first counts
        assert "".join(texts) == text[: min(found, default=len(text))]


@pytest.mark.parametrize("stops", [[], [""]])
def test_without_stop_sequences_nothing_is_held_back(stops):
    assert write([b"a", b"b"], stops) == (["a", "b", ""], False)
