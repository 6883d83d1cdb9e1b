"""What the engine computed and what it found in its cache are among the service's metrics."""

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.native_runner import NativeModelRunner
from streamward.moderation.engine_worker import EngineWorker
from streamward.moderation.stream_guard import StreamGuard
from tests.model.small import FAMILIES, small_guard
from tests.moderation.guards import guard_tokenizer
from tests.server.services import open_service

PROMPT = "The cat sat on the mat, and the dog looked at it for a long time. " * 4


def native_guard(*, prefix_sharing: bool) -> StreamGuard:
    config = EngineConfig(page_tokens=16, kv_cache_bytes=2**26, prefix_sharing=prefix_sharing)
    parameters = small_guard(**FAMILIES["llama"], vocab_size=320, max_positions=2048)
    return StreamGuard(guard_tokenizer(), EngineWorker(Engine(config, NativeModelRunner(parameters, config))))


def counts(service) -> list[float]:
    return [
        service.metric("streamward_engine_tokens_total", source="computed"),
        service.metric("streamward_engine_tokens_total", source="reused"),
        service.metric("streamward_prefix_hits_total"),
    ]


def test_a_beginning_that_was_found_is_counted_and_changes_no_answer(tmp_path) -> None:
    found, answers = {}, {}
    for is_shared in (True, False):
        folder = tmp_path / str(is_shared)
        folder.mkdir()
        with open_service(folder, guard=native_guard(prefix_sharing=is_shared)) as service:
            answers[is_shared] = [service.post("/v1/guard", {"prompt": PROMPT}).json()["prompt"] for _ in range(2)]
            found[is_shared] = counts(service)
    computed, reused, hits = found[True]
    assert found[False] == [computed + reused, 0, 0]
    assert reused > 200 and hits == 1
    assert answers[True] == answers[False]
    assert answers[True][0] == answers[True][1]
