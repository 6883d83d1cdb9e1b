"""A step's tokens are divided between owners first, and short appends come before long texts."""

import pytest

from streamward.engine.config import EngineConfig
from streamward.engine.scheduler import ScheduledSequence, Scheduler, fair_shares
from streamward.engine.sequence import TokenSequence

CONFIG = EngineConfig(max_batch_tokens=512, max_long_tokens=128)


def waiting(number: int, *, owner: str | None, num_tokens: int) -> list[TokenSequence]:
    return [TokenSequence(0, owner, [1] * num_tokens, [None] * num_tokens) for _ in range(number)]


def schedule(streams: list[TokenSequence]) -> list[ScheduledSequence]:
    return Scheduler(CONFIG).schedule(streams)


def granted(streams: list[TokenSequence], scheduler: Scheduler | None = None) -> dict[str | None, int]:
    totals: dict[str | None, int] = {}
    for stream, count in (scheduler or Scheduler(CONFIG)).schedule(streams):
        totals[stream.owner] = totals.get(stream.owner, 0) + count
    return totals


def test_an_owner_of_fifty_long_texts_gets_no_more_than_an_owner_of_one() -> None:
    streams = waiting(50, owner="many", num_tokens=4000) + waiting(1, owner="one", num_tokens=4000)
    assert granted(streams) == {"many": 256, "one": 256}


def test_short_appends_of_anybody_are_read_whole_and_leave_long_texts_their_part() -> None:
    streams = waiting(50, owner="many", num_tokens=4000) + waiting(3, owner="short", num_tokens=20)
    assert granted(streams) == {"many": 128, "short": 60}


def test_short_appends_of_an_owner_come_before_his_own_long_texts() -> None:
    streams = waiting(50, owner="many", num_tokens=4000) + waiting(1, owner="many", num_tokens=20)
    assert schedule(streams)[-1] == (streams[-1], 20)


def test_a_flood_of_short_appends_does_not_stop_another_owners_long_text() -> None:
    streams = waiting(2000, owner="flood", num_tokens=5) + waiting(1, owner="long", num_tokens=4000)
    assert granted(streams) == {"flood": 384, "long": 128}


def test_long_texts_keep_steps_short_while_somebody_else_appends_now_and_then() -> None:
    scheduler = Scheduler(CONFIG)
    long, short = waiting(1, owner="long", num_tokens=4000), waiting(1, owner="short", num_tokens=3)
    assert granted(long, scheduler) == {"long": 512}
    granted(long + short, scheduler)
    assert [granted(long, scheduler) for _ in range(15)] == [{"long": 128}] * 15
    assert granted(long, scheduler) == {"long": 512}


def test_the_end_of_a_long_text_does_not_slow_its_owners_next_one_down() -> None:
    scheduler = Scheduler(CONFIG)
    granted(waiting(1, owner="a", num_tokens=10), scheduler)
    assert granted(waiting(1, owner="a", num_tokens=4000), scheduler) == {"a": 512}


def test_what_one_owner_leaves_goes_to_the_others() -> None:
    streams = waiting(1, owner="little", num_tokens=40) + waiting(1, owner="much", num_tokens=4000)
    assert granted(streams) == {"little": 40, "much": 472}


@pytest.mark.parametrize("num_owners", [600, 5000])
def test_of_more_owners_than_tokens_those_in_front_are_served(num_owners: int) -> None:
    streams = [each for index in range(num_owners) for each in waiting(1, owner=str(index), num_tokens=1)]
    assert [stream.owner for stream, _ in schedule(streams)] == [str(index) for index in range(512)]


def test_who_asks_for_nothing_stands_in_nobodys_way() -> None:
    assert fair_shares([0, 0, 7], budget=2) == [0, 0, 2]
