"""Pages that were used are used again before new ones: what the system gave is never taken back."""

import random

import pytest

from streamward.engine.page_pool import PagePool

NUM_PAGES = 1000


both = pytest.mark.parametrize("side_by_side", [True, False])


@both
def test_streams_that_come_and_go_stay_in_the_first_part_of_the_cache(side_by_side: bool) -> None:
    rng = random.Random(5)
    pool = PagePool(NUM_PAGES, side_by_side=side_by_side)
    streams: list[list[int]] = []
    touched: set[int] = set()
    most = 0
    for _ in range(3000):
        if len(streams) < 20 or rng.random() < 0.5:
            pages = pool.take(rng.randint(1, 4), after=None)
            streams.append(pages)
        for pages in rng.sample(streams, min(3, len(streams))):
            pages += pool.take(1, after=pages[-1])
        while sum(len(pages) for pages in streams) > 200:
            pool.release(streams.pop(rng.randrange(len(streams))))
        touched.update(page for pages in streams for page in pages)
        most = max(most, NUM_PAGES - pool.num_free)
    assert max(touched) < 1.25 * most + 32


@both
def test_every_page_can_be_taken(side_by_side: bool) -> None:
    pool = PagePool(NUM_PAGES, side_by_side=side_by_side)
    taken = [page for count in (1, 30, 400, 569) for page in pool.take(count, after=None)]
    assert sorted(taken) == list(range(NUM_PAGES))
    assert pool.num_free == 0


def test_pages_of_one_stream_lie_side_by_side_in_an_empty_cache() -> None:
    pool = PagePool(NUM_PAGES, side_by_side=True)
    pages = pool.take(40, after=None)
    pages += pool.take(90, after=pages[-1])
    assert pages == list(range(130))


def test_streams_that_grow_in_turn_have_room_beside_them() -> None:
    pool = PagePool(NUM_PAGES, side_by_side=True)
    streams = [pool.take(1, after=None) for _ in range(4)]
    for _ in range(3):
        for pages in streams:
            pages += pool.take(1, after=pages[-1])
    assert all(pages == list(range(pages[0], pages[0] + 4)) for pages in streams)
