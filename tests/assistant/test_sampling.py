"""From logits to tokens."""

import pytest
import torch

from streamward.assistant.sampling import Sampler, Sampling


def draw(count, logits, **options):
    sampler = Sampler(Sampling(max_tokens=1, **options))
    return [sampler.choose(torch.tensor(logits)) for _ in range(count)]


def test_temperature_zero_takes_the_most_probable_token():
    assert draw(3, [0.0, 2.0, 1.9], temperature=0.0) == [1, 1, 1]


def test_a_seed_repeats_a_draw_and_another_does_not():
    flat = [0.0] * 1000
    assert draw(20, flat, seed=5) == draw(20, flat, seed=5)
    assert draw(20, flat, seed=5) != draw(20, flat, seed=6)
    assert draw(20, flat) != draw(20, flat)


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1])
def test_any_seed_of_64_bits_is_taken(seed):
    assert draw(1, [1.0, 0.0], temperature=0.0, seed=seed) == [0]


def test_tokens_are_drawn_by_their_share():
    drawn = draw(4000, torch.tensor([0.7, 0.3]).log().tolist(), seed=0)
    assert drawn.count(0) / len(drawn) == pytest.approx(0.7, abs=0.03)


def test_top_p_leaves_out_what_is_improbable():
    logits = torch.tensor([0.1, 0.6, 0.3]).log().tolist()
    assert set(draw(200, logits, top_p=0.5, seed=0)) == {1}
    assert set(draw(200, logits, top_p=0.8, seed=0)) == {1, 2}
    assert set(draw(200, logits, top_p=0.95, seed=0)) == {0, 1, 2}


def test_top_p_reaches_beyond_the_first_candidates_of_a_flat_distribution():
    assert max(draw(300, [0.0] * 1000, top_p=0.99, seed=0)) > 300


def test_low_temperatures_do_not_overflow():
    assert draw(5, [1e4, 1e4 - 1.0], temperature=1e-6) == [0] * 5


def test_penalties_make_what_was_written_less_probable():
    assert draw(3, [2.0, 1.5, 1.2], temperature=0.0, presence_penalty=1.0) == [0, 1, 2]
    assert draw(4, [2.0, 1.5], temperature=0.0, frequency_penalty=0.4) == [0, 0, 1, 0]
