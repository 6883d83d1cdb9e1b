"""Hidden states for teaching, from the native kernels: the layers behind the last tap are not run."""

import numpy as np
import pytest

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.native_runner import NativeModelRunner
from streamward.kernels.library import available_units
from streamward.moderation.engine_worker import EngineWorker
from streamward.moderation.moderator import Moderator
from streamward.moderation.stream_guard import StreamGuard
from streamward.policy import Policy
from streamward.rules.rule import RuleExample
from streamward.schema import Result
from streamward.teach import hidden_states
from streamward.teach.hidden_states import read_texts
from tests.model.small import small_guard
from tests.moderation.guards import guard_tokenizer

pytestmark = pytest.mark.skipif(not available_units(), reason="the kernels were not built on this machine")
ROWS = [RuleExample(prompt=f"{'the other ant ' * 9}{number}", response="all in the ring") for number in range(6)]


def native_guard() -> StreamGuard:
    config = EngineConfig(kv_cache_bytes=2**23, page_tokens=16)
    engine = Engine(config, NativeModelRunner(small_guard(vocab_size=320), config))
    return StreamGuard(guard_tokenizer(), EngineWorker(engine))


def found_by(guard: StreamGuard) -> Result:
    with Moderator(guard, policy=Policy.load("strict")) as moderator:
        return moderator.moderate(prompt=ROWS[0].prompt, response=ROWS[0].response)


def test_states_of_a_layer_are_the_same_with_fewer_layers_behind_it_and_in_other_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = native_guard()
    last = guard.engine.runner.model_config.num_layers - 1
    assert last > 0
    shallow = [each.states[:, 0] for each in read_texts(guard, (0,), ROWS)]
    deep = [each.states[:, 0] for each in read_texts(guard, (0, last), ROWS)]
    monkeypatch.setattr(hidden_states, "_BATCH_TOKENS", 1)
    single = [each.states[:, 0] for each in read_texts(guard, (0,), ROWS)]
    for one, other, third in zip(shallow, deep, single, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(one, third)


def test_verdicts_after_reading_do_not_build_on_layers_that_were_not_run() -> None:
    guard = native_guard()
    list(read_texts(guard, (0,), ROWS))
    assert found_by(guard) == found_by(native_guard())
