"""Ways to judge the next k tokens of a stream, each as a function that does it once."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from streamward.bench.shapes import SHAPES
from streamward.engine.engine import Engine
from streamward.model.decoder import dense_hidden
from streamward.model.guard_model import GuardModel
from streamward.schema import Side

Work = Callable[[], object]


def appending(engine: Engine, *, context: int, k: int, streams: int = 1) -> tuple[Work, Callable[[], None]]:
    """Our engine: k new tokens of each stream behind a context that stays in the cache.

    Returns:
        One step, which leaves everything as it was, and a function that closes the streams.
    """
    ids = _ids(engine.model, context)
    opened = [engine.open() for _ in range(streams)]
    for stream_id in opened:
        engine.extend(stream_id, ids, read=None)
        while engine.num_queued(stream_id):
            engine.step()
    new = ids[:k]

    def step() -> None:
        for stream_id in opened:
            engine.extend(stream_id, new, read=Side.RESPONSE)
        while any(engine.num_queued(stream_id) for stream_id in opened):
            engine.step()
        for stream_id in opened:
            engine.truncate(stream_id, context)

    def close() -> None:
        for stream_id in opened:
            engine.close(stream_id)

    return step, close


def rereading(model: GuardModel, *, context: int) -> Work:
    """The same decoder without a cache: the whole text once more for one new token."""
    ids_1S = torch.tensor([_ids(model, context + 1)])

    @torch.inference_mode()
    def read() -> object:
        return model.response_heads(dense_hidden(model.decoder, ids_1S)[0, -1:])

    return read


def rereading_with_transformers(shape: str, *, context: int, dtype: torch.dtype) -> Work:
    """What the code published with Qwen3Guard-Stream does for one new token: transformers' model over the whole text.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers import Qwen3Config, Qwen3Model

    config = SHAPES[shape]
    hf_config = Qwen3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_positions,
    )
    with torch.device("meta"):
        model = Qwen3Model(hf_config)
    model.to(dtype)  # type: ignore[arg-type]  # annotated for whole models only
    model.to_empty(device="cpu").eval()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.03, 0.03)
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    model.rotary_emb.register_buffer("inv_freq", config.rope_theta**-exponents, persistent=False)
    ids_1S = torch.arange(context + 1)[None] % config.vocab_size

    @torch.inference_mode()
    def read() -> object:
        return model(input_ids=ids_1S, use_cache=False).last_hidden_state[:, -1]

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


def read_bandwidth() -> float:
    """Measure how many bytes a second this machine reads from memory with all its threads."""
    values = torch.ones(2**28, dtype=torch.int8)  # far more than any cache holds
    words = values.view(torch.int64)
    return values.nbytes / median_seconds(words.sum, repeats=7)


def median_seconds(work: Work, *, repeats: int, warmup: int = 2) -> float:
    """Return the median time of one call."""
    return median(timed(work, repeats=repeats, warmup=warmup))


def timed(work: Work, *, repeats: int, warmup: int = 2) -> list[float]:
    """Return the time of each call after the first ones."""
    import time

    for _ in range(warmup):
        work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def median(values: list[float]) -> float:
    """Return the middle of the values."""
    return float(torch.tensor(values, dtype=torch.float64).median())


def _ids(model: GuardModel, count: int) -> list[int]:
    return [7 + index % 1000 for index in range(count)] if model.decoder.config.vocab_size > 1007 else [7] * count
