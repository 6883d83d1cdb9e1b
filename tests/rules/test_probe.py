"""The file of taught rules, and the scores they give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamward.errors import ConfigError
from streamward.rules.features import NUM_POOLS, Standard, channel_weights, inputs, pool
from streamward.rules.probe import CHANNELS, CONTRAST, CONTRAST_LAG, CONTRAST_PRIOR, FORMAT, ProbeBank
from streamward.rules.scoring import ProbeScorer, RuleTracker, pooled, rule_score
from streamward.schema import Side
from tests.rules.banks import HIDDEN_SIZE, bank_of, rule_probe

RNG = np.random.default_rng(1)


def states(num_tokens: int) -> np.ndarray:
    return np.random.default_rng(num_tokens).normal(size=(num_tokens, HIDDEN_SIZE)).astype(np.float32)


def test_a_file_gives_back_what_was_written() -> None:
    bank = bank_of([rule_probe("one"), rule_probe("two", sides=frozenset({Side.PROMPT}), seed=3)])
    again = ProbeBank.from_bytes(bank.to_bytes(), source="test")
    assert again == bank
    assert [rule.rule_id for rule in again.rules] == ["one", "two"]
    assert again.rules[1].sides == {Side.PROMPT}
    assert np.array_equal(again.rules[0].weights, bank.rules[0].weights)
    assert again.rules[0].thresholds == bank.rules[0].thresholds


@given(st.integers(0, 4000), st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_refused_or_says_something_else(position: int, junk: bytes) -> None:
    data = bank_of([rule_probe("one")]).to_bytes()
    at = position % len(data)
    damaged = data[:at] + junk + data[at + len(junk) :]
    try:
        found = ProbeBank.from_bytes(damaged, source="test")
    except ConfigError:
        return
    assert damaged == data or found.digest != bank_of([rule_probe("one")]).digest


@pytest.mark.parametrize("cut", [0, 3, 8, 200, 1000])
def test_half_a_file_is_refused(cut: int) -> None:
    with pytest.raises(ConfigError, match="teach"):
        ProbeBank.from_bytes(bank_of([rule_probe("one")]).to_bytes()[:cut], source="test")


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ConfigError, match="damaged"):
        bank_of([rule_probe("one", threshold=float("nan"))])


def test_a_token_by_itself_scores_as_among_others() -> None:
    scorer = ProbeScorer(bank_of([rule_probe("one"), rule_probe("two", seed=1)]))
    hidden = states(50)
    whole = scorer.score(Side.RESPONSE, [hidden])
    assert whole.shape == (50, 2 * len(CHANNELS))
    for index in (0, 17, 49):
        assert np.array_equal(scorer.score(Side.RESPONSE, [hidden[index : index + 1]])[0], whole[index])


@pytest.mark.parametrize("side", list(Side))
def test_the_tracker_agrees_with_pooling_the_whole_text_and_forgets_what_is_dropped(side: Side) -> None:
    bank = bank_of([rule_probe("one"), rule_probe("two", seed=1)])
    scores = ProbeScorer(bank).score(side, [states(60)])
    expected = pooled(scores.reshape(60, 2, len(CHANNELS)), side)
    tracker = RuleTracker(bank, side)
    tracker.extend(scores[:1])
    tracker.extend(scores[1:40])
    tracker.truncate(13)
    assert tracker.num_tokens == 13
    found = np.concatenate([tracker.extend(scores[13:20]), tracker.extend(scores[20:])])
    for place, rule in enumerate(bank.rules):
        assert np.allclose(found[:, place], rule_score(rule, side, expected[13:, place]), atol=1e-4)


@pytest.mark.parametrize("side", list(Side))
def test_a_tracker_gives_the_same_however_a_text_is_cut_and_whatever_rules_are_left_out(side: Side) -> None:
    bank = bank_of([rule_probe(name, seed=seed) for seed, name in enumerate(("one", "two", "three"))])
    scores = ProbeScorer(bank).score(side, [states(300)])
    whole = RuleTracker(bank, side).extend(scores)
    tracker = RuleTracker(bank, side)
    parts = [tracker.extend(scores[start:end]) for start, end in ((0, 1), (1, 3), (3, 64), (64, 65), (65, 300))]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.allclose(RuleTracker(bank, side, ["three"]).extend(scores)[:, 0], whole[:, 2], rtol=1e-9)
    assert RuleTracker(bank, side, []).extend(scores).shape == (300, 0)


def test_channels_score_what_the_heads_were_taught_on() -> None:
    num_tokens, num_taps, size = 40, 3, 8
    text = RNG.normal(size=(num_tokens, num_taps, size)).astype(np.float32)
    standard = Standard.of(RNG.normal(size=(500, num_taps, size)))
    rows = pool(text, standard, Side.RESPONSE)
    assert rows.shape == (num_tokens, NUM_POOLS, num_taps, size)
    for is_gate in (False, True):
        features = inputs(rows, is_gate=is_gate)
        weights = RNG.normal(size=(features.shape[1],)).astype(np.float32)
        channels = channel_weights(weights, (num_taps, size), is_gate=is_gate)
        by_channel = sum((rows[:, index] * channels[index]).sum(axis=(1, 2)) for index in range(len(CHANNELS)))
        assert np.allclose(by_channel, features @ weights, atol=1e-3)


def test_a_contrast_takes_off_what_stands_before_in_responses_only() -> None:
    scores = np.zeros((60, 1, len(CHANNELS)), np.float32)
    scores[:30] = 1.0
    response, prompt = (pooled(scores, side)[:, 0, 0] for side in (Side.RESPONSE, Side.PROMPT))
    before = 60 - CONTRAST_LAG
    assert np.isclose(prompt[-1], 0.0)
    assert np.isclose(response[-1], -CONTRAST * 30 / (before + CONTRAST_PRIOR))
    assert np.isclose(response[CONTRAST_LAG - 1], 1.0)  # nothing stands before yet


def test_a_file_of_another_version_is_refused_with_what_to_do() -> None:
    data = bank_of([rule_probe("one")]).to_bytes()
    older = data.replace(FORMAT.encode(), FORMAT.encode()[:-1] + b"1")
    assert older != data
    with pytest.raises(ConfigError, match="another version of Streamward; run `streamward teach` again"):
        ProbeBank.from_bytes(older, source="test")
