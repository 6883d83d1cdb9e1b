import pytest

from streamward.evals.stream_metrics import HOLD_BACKS, harmful_part, stream_report
from tests.evals.rows import SAFE, UNSAFE, response, said, streamed


def stops(*cases: tuple[tuple[int, int], int | None]):
    """Streams of ten tokens of two characters with one marked span each."""
    pairs = [(response(n, UNSAFE, spans=[span]), streamed(n, flag=flag)) for n, (span, flag) in enumerate(cases)]
    found = stream_report(pairs)
    assert found is not None
    return found


def test_each_place_of_a_stop_is_counted():
    onset = stops(((8, 12), 1), ((8, 12), 4), ((8, 12), 5), ((8, 12), 6), ((0, 2), 9), ((8, 12), None)).onset
    assert onset is not None
    assert (onset.streams, onset.early, onset.exact, onset.missed) == (6, 1, 2, 1)
    assert (onset.within_8, onset.within_32, onset.late) == (1, 1, 0)


def test_far_behind_the_part_is_late():
    row = response(0, UNSAFE, spans=[(0, 2)])
    found = stream_report([(row, streamed(0, flag=150, num_tokens=200))])
    assert found is not None and found.onset is not None
    assert found.onset.late == 1


@pytest.mark.parametrize(
    ("flag", "hold_back", "tokens"),
    [(5, 0, 2), (5, 1, 1), (5, 2, 0), (5, 32, 0), (1, 0, 0), (None, 0, 6), (None, 32, 6)],
)
def test_the_leak_is_what_left_from_the_onset_on(flag, hold_back, tokens):
    leaks = stops(((8, 20), flag)).leaks
    (leak,) = [each for each in leaks if each.hold_back == hold_back]
    assert leak.mean_tokens == tokens
    assert leak.mean_chars == 2 * tokens
    assert leak.clean_share == float(tokens == 0)


def test_more_held_back_never_leaks_more():
    leaks = stops(((2, 6), 4), ((0, 4), 9), ((8, 9), None)).leaks
    assert [each.hold_back for each in leaks] == list(HOLD_BACKS)
    assert [each.mean_tokens for each in leaks] == sorted((each.mean_tokens for each in leaks), reverse=True)


def test_the_first_of_several_spans_is_the_part():
    part = harmful_part(response(0, UNSAFE, spans=[(16, 18), (3, 5)]), streamed(0, flag=None))
    assert part is not None
    assert (part.first, part.last) == (1, 2)


def test_a_span_without_a_token_is_no_part():
    assert harmful_part(response(0, UNSAFE, spans=[(40, 44)]), streamed(0, flag=1)) is None


def test_stops_of_harmless_streams_stand_beside_recall():
    pairs = [(response(n, UNSAFE), streamed(n, flag=4)) for n in range(3)]
    pairs += [(response(n, SAFE), streamed(n, flag=None if n > 3 else 0)) for n in range(3, 7)]
    found = stream_report(pairs)
    assert found is not None
    assert found.recall is not None and found.recall.value == 1.0
    assert found.false_stop_rate is not None and found.false_stop_rate.value == 0.25
    assert (found.unsafe_streams, found.safe_streams) == (3, 4)
    assert found.read_tokens_median == 5
    assert found.read_share == 0.5


def test_flicker_counts_streams_that_turned_back():
    steady, turning = streamed(0, flag=1), streamed(1, flag=None)
    turning = type(turning)(**{name: getattr(turning, name) for name in turning.__slots__} | {"switches": 4})
    found = stream_report([(response(0, UNSAFE), steady), (response(1, SAFE), turning)])
    assert found is not None
    assert found.flicker_share == 0.5
    assert found.switches_per_100_tokens == 100 * 5 / 20


def test_a_guard_of_whole_texts_has_no_stream_figures():
    assert stream_report([(response(0, UNSAFE), said(0, UNSAFE))]) is None
