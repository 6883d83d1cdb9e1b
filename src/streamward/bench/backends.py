"""Our ways to judge the next k tokens of streams, each as a function that does it once."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from streamward.bench.timing import Work
from streamward.engine.engine import Engine
from streamward.model.config import ModelConfig
from streamward.model.decoder import dense_hidden
from streamward.model.guard_model import GuardModel
from streamward.schema import Side


class Prepared(NamedTuple):
    """Streams with their context in the cache.

    Attributes:
        step: Judges k new tokens of each, and leaves everything as it was.
        close: Closes the streams.
    """

    step: Work
    close: Work


def appending(engine: Engine, *, context: int, k: int, streams: int = 1) -> Prepared:
    """Our engine: k new tokens of each stream behind a context that stays in the cache."""
    ids = token_ids(engine.runner.model_config, context)
    opened = [engine.open() for _ in range(streams)]
    _read(engine, opened[0], ids)
    for stream_id in opened[1:]:
        _copy(engine, opened[0], stream_id, ids)
    new = ids[:k]

    def step() -> None:
        for stream_id in opened:
            engine.extend(stream_id, new, head=Side.RESPONSE)
        while engine.num_queued_tokens:
            engine.step()
        for stream_id in opened:
            engine.truncate(stream_id, context)

    def close() -> None:
        for stream_id in opened:
            engine.close(stream_id)

    return Prepared(step, close)


def _read(engine: Engine, stream_id: int, ids: list[int]) -> None:
    engine.extend(stream_id, ids, head=None)
    while engine.num_queued_tokens:
        engine.step()


def _copy(engine: Engine, source_id: int, target_id: int, ids: list[int]) -> None:
    """Give a stream pages of its own with another's keys and values: reading 128 contexts would take minutes."""
    engine.extend(target_id, ids, head=None)
    source, target = engine._streams[source_id], engine._streams[target_id]
    for one, other in zip(source.pages, target.pages, strict=False):
        engine._runner.copy_page(one, other)
    engine._num_queued -= target.advance(len(ids))


def rereading(model: GuardModel, *, context: int) -> Work:
    """The same decoder without a cache: the whole text once more for one new token."""
    ids_1S = torch.tensor([token_ids(model.decoder.config, context + 1)])

    @torch.inference_mode()
    def read() -> object:
        return model.response_heads(dense_hidden(model.decoder, ids_1S)[0, -1:])

    return read


@contextmanager
def busy_core() -> Iterator[None]:
    """Let another process take all of one core for the time of a `with` block."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def token_ids(config: ModelConfig, count: int) -> list[int]:
    """Return some ids that the model knows."""
    size = min(1000, config.vocab_size - 7)
    return [7 + index % size for index in range(count)]
