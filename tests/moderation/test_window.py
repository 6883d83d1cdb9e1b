from hypothesis import given
from hypothesis import strategies as st

from streamward.moderation.window import Windows

SIZES = st.integers(2, 50).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


@given(SIZES, st.integers(0, 500))
def test_a_token_lies_in_the_window_that_judges_it(sizes: tuple[int, int], position: int) -> None:
    windows = Windows(*sizes)
    index = windows.index(position)
    assert windows.start(index) <= position < windows.end(index)


@given(SIZES, st.integers(0, 500))
def test_a_later_window_judges_only_what_no_earlier_one_reached(sizes: tuple[int, int], position: int) -> None:
    windows = Windows(*sizes)
    index = windows.index(position)
    assert index == 0 or position >= windows.end(index - 1)


@given(SIZES, st.integers(0, 500))
def test_a_later_window_reads_the_overlap_before_its_first_own_token(sizes: tuple[int, int], position: int) -> None:
    windows = Windows(*sizes)
    index = windows.index(position)
    assert index == 0 or position - windows.start(index) >= windows.overlap
