"""Probes get the hidden states of the layers they name, at the tokens that heads score, whatever runs the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.native_runner import NativeModelRunner
from streamward.engine.probes import FINAL
from streamward.errors import ConfigError
from streamward.kernels.library import available_units
from streamward.model.decoder import dense_hidden
from streamward.model.guard_model import GuardModel
from streamward.schema import Side
from tests.engine.harness import make_engine, random_guard, random_ids
from tests.model.small import small_guard

IDS = random_ids(20, seed=4)


@dataclass
class CopyingProbe:
    """Scores that are the hidden states themselves."""

    layers: tuple[int, ...] = (0, FINAL)
    name: str = "copy"
    sides: frozenset[Side] = frozenset(Side)
    num_scores: int = 48
    seen: list[int] = field(default_factory=list)

    def score(self, side: Side, hidden: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        self.seen.append(len(hidden[0]))
        return np.concatenate(hidden, axis=1)


class FailingProbe(CopyingProbe):
    def score(self, side: Side, hidden: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        raise RuntimeError("no")


def states(guard: GuardModel, ids: Sequence[int], layer: int) -> NDArray[np.float32]:
    """The output of a layer by one full pass, [T, D]."""
    found: list[torch.Tensor] = []
    module = guard.decoder.norm if layer == FINAL else guard.decoder.layers[layer]
    handle = module.register_forward_hook(lambda _, __, output: found.append(output))
    with torch.inference_mode():
        dense_hidden(guard.decoder, torch.tensor([list(ids)]))
    handle.remove()
    array: NDArray[np.float32] = found[0].numpy()
    return array


@pytest.mark.parametrize("layers", [(0, FINAL), (1, 0), (FINAL, 1)])
def test_scores_are_computed_from_the_states_of_the_layers_named(layers: tuple[int, ...]) -> None:
    guard = random_guard()
    engine = make_engine(guard)
    engine.add_probe(CopyingProbe(layers))
    stream = engine.open()
    engine.extend(stream, IDS[:7], head=None)
    engine.extend(stream, IDS[7:], head=Side.RESPONSE)
    (output,) = engine.step()
    expected = np.concatenate([states(guard, IDS, layer)[7:] for layer in layers], axis=1)
    np.testing.assert_allclose(output.probe_scores["copy"], expected, atol=1e-5)


def test_streams_of_one_step_get_their_own_rows() -> None:
    guard = random_guard()
    engine = make_engine(guard)
    engine.add_probe(CopyingProbe())
    texts = {engine.open(): random_ids(length, seed=length) for length in (3, 9, 5)}
    for stream, ids in texts.items():
        engine.extend(stream, ids[:-1], head=Side.RESPONSE)
        engine.extend(stream, ids[-1:], head=Side.PROMPT)
    for output in engine.step():
        ids = texts[output.stream_id]
        rows = slice(output.position, output.position + len(output.risk_probs))
        expected = np.concatenate([states(guard, ids, layer)[rows] for layer in (0, FINAL)], axis=1)
        np.testing.assert_allclose(output.probe_scores["copy"], expected, atol=1e-5)


def test_a_probe_sees_only_the_tokens_of_its_sides() -> None:
    probe = CopyingProbe(sides=frozenset({Side.PROMPT}))
    engine = make_engine(random_guard())
    engine.add_probe(probe)
    stream = engine.open()
    engine.extend(stream, IDS[:5], head=Side.PROMPT)
    engine.extend(stream, IDS[5:], head=Side.RESPONSE)
    prompt, response = engine.step()
    assert probe.seen == [5]
    assert list(prompt.probe_scores) == ["copy"]
    assert response.probe_scores == {}


def test_a_probe_that_fails_gives_nan_and_the_heads_go_on(caplog: pytest.LogCaptureFixture) -> None:
    engine = make_engine(random_guard())
    engine.add_probe(FailingProbe())
    engine.add_probe(CopyingProbe(name="other"))
    stream = engine.open()
    for start in (0, 10):
        engine.extend(stream, IDS[start : start + 10], head=Side.RESPONSE)
        (output,) = engine.step()
        assert np.isnan(output.probe_scores["copy"]).all()
        assert np.isfinite(output.probe_scores["other"]).all()
        assert np.isfinite(output.risk_probs).all()
    assert [record.message for record in caplog.records] == ["a probe failed; its scores are NaN"]


def test_a_removed_probe_scores_no_more() -> None:
    engine = make_engine(random_guard())
    engine.add_probe(CopyingProbe())
    engine.remove_probe("copy")
    engine.remove_probe("copy")
    stream = engine.open()
    engine.extend(stream, IDS, head=Side.RESPONSE)
    assert engine.step()[0].probe_scores == {}


@pytest.mark.parametrize(("layers", "message"), [((2,), "taps are 0 to 1"), ((-2,), "taps are"), ((), "taps are")])
def test_layers_that_do_not_exist_are_refused(layers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_engine(random_guard()).add_probe(CopyingProbe(layers))


def test_a_second_probe_of_a_name_is_refused() -> None:
    engine = make_engine(random_guard())
    engine.add_probe(CopyingProbe())
    with pytest.raises(ConfigError, match="has a probe 'copy' already"):
        engine.add_probe(CopyingProbe())


@pytest.mark.skipif(not available_units(), reason="the kernels were not built on this machine")
def test_the_native_kernels_give_the_states_that_the_heads_read() -> None:
    parameters = small_guard()
    config = EngineConfig(kv_cache_bytes=2**23)
    whole, cut = (Engine(config, NativeModelRunner(parameters, config)) for _ in range(2))
    for engine in (whole, cut):
        engine.add_probe(CopyingProbe((1, FINAL), num_scores=256))
        engine.open()
    whole.extend(1, [index % 50 for index in range(30)], head=Side.RESPONSE)
    (expected,) = whole.step()
    found = []
    for index in range(30):
        cut.extend(1, [index % 50], head=Side.RESPONSE)
        found += [output.probe_scores["copy"] for output in cut.step()]
    np.testing.assert_array_equal(np.concatenate(found), expected.probe_scores["copy"])
    last_TD, final_TD = np.split(expected.probe_scores["copy"], 2, axis=1)
    norm = parameters.vectors["decoder.norm.weight"]
    scale = np.sqrt((last_TD**2).mean(axis=1, keepdims=True) + parameters.config.rms_norm_eps)
    np.testing.assert_allclose(final_TD, last_TD / scale * norm, rtol=1e-4, atol=1e-5)
