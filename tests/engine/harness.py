"""A small random guard, its verdicts by one full pass, and a driver that checks an engine against them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.outputs import StepOutput
from streamward.engine.torch_attention import PagedAttention
from streamward.engine.torch_runner import TorchModelRunner
from streamward.model.config import ModelConfig
from streamward.model.decoder import dense_hidden
from streamward.model.guard_config import (
    PUBLISHED_PROMPT_CATEGORIES,
    PUBLISHED_RESPONSE_CATEGORIES,
    PUBLISHED_RISK_LEVELS,
    GuardConfig,
    SideLabels,
)
from streamward.model.guard_model import GuardModel
from streamward.schema import Side

VOCAB_SIZE = 64
MAX_POSITIONS = 128
TOLERANCE = 1e-5
GUARD_CONFIG = GuardConfig(
    inner_size=12,
    prompt=SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_PROMPT_CATEGORIES),
    response=SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_RESPONSE_CATEGORIES),
)


_SHAPE = ModelConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=32,
    rope_theta=10000.0,
    rms_norm_eps=1e-6,
    max_positions=MAX_POSITIONS,
    has_tied_embeddings=True,
    has_qk_norm=True,
)


def random_guard(**shape: Any) -> GuardModel:  # Any: fields of several types
    """Two layers, four query heads on two key heads, weights large enough that every token of the context matters.

    Args:
        **shape: Fields of `ModelConfig` that are to be others.
    """
    torch.manual_seed(7)
    guard = GuardModel(replace(_SHAPE, **shape), GUARD_CONFIG)
    for parameter in guard.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = 1 + 0.3 * noise if parameter.dim() == 1 else noise * 1.5 * parameter.shape[1] ** -0.5
    return guard.eval()


def random_ids(count: int, *, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB_SIZE, (count,), generator=generator).tolist()


def make_engine(guard: GuardModel, *, num_pages: int = 256, **limits: int) -> Engine:
    """Make an engine with a cache of `num_pages` pages, of 8 tokens unless told otherwise."""
    shape = guard.decoder.config
    page_tokens = limits.setdefault("page_tokens", 8)
    page_bytes = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 4 * page_tokens
    config = EngineConfig.model_validate({"kv_cache_bytes": num_pages * page_bytes, **limits})
    return Engine(config, TorchModelRunner(guard, config))


@contextmanager
def counted_tokens(*guards: GuardModel) -> Iterator[list[int]]:
    """Collect the number of tokens of each forward pass of an engine, without padding."""
    counts: list[int] = []

    def count(_: object, args: tuple[object, ...]) -> None:
        attend = args[2]
        assert isinstance(attend, PagedAttention)
        counts.append(attend.num_new)

    hooks = [guard.decoder.register_forward_pre_hook(count) for guard in guards]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Opinion:
    """What the heads of one side say at one token."""

    side: Side
    risk: Tensor
    category: Tensor


@torch.inference_mode()
def full_pass(guard: GuardModel, ids: Sequence[int], sides: Sequence[Side | None]) -> dict[int, Opinion]:
    """Judge a whole sequence at once, with dense attention and no cache."""
    hidden_SD = dense_hidden(guard.decoder, torch.tensor([list(ids)]))[0]
    opinions: dict[int, Opinion] = {}
    for side in Side:
        logits = guard.heads(side)(hidden_SD)
        risk, category = logits.risk_TR.softmax(-1), logits.category_TC.softmax(-1)
        opinions |= {at: Opinion(side, risk[at], category[at]) for at, read in enumerate(sides) if read is side}
    return opinions


def opinions_of(outputs: Iterable[StepOutput]) -> list[tuple[int, int, Opinion]]:
    """Split outputs into (stream id, position, opinion), one a token."""
    return [
        (
            output.stream_id,
            output.position + row,
            Opinion(output.side, torch.tensor(risk), torch.tensor(category)),
        )
        for output in outputs
        for row, (risk, category) in enumerate(zip(output.risk_probs, output.category_probs, strict=True))
    ]


def assert_same(actual: dict[int, Opinion], expected: dict[int, Opinion]) -> None:
    """Same positions, same sides, same probabilities."""
    assert sorted(actual) == sorted(expected)
    for position in sorted(expected):
        ours, reference = actual[position], expected[position]
        assert ours.side is reference.side
        torch.testing.assert_close(ours.risk, reference.risk, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(ours.category, reference.category, atol=TOLERANCE, rtol=0)


@dataclass
class Tracked:
    """What an engine's stream should hold, and the verdicts it gave."""

    ids: list[int] = field(default_factory=list)
    sides: list[Side | None] = field(default_factory=list)
    given: dict[int, Opinion] = field(default_factory=dict)


class Judge:
    """Drives an engine, remembers every stream's tokens and verdicts, and compares them to one full pass."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        assert isinstance(engine.runner, TorchModelRunner)
        self.model = engine.runner.model
        self.streams: dict[int, Tracked] = {}

    def open(self) -> int:
        stream_id = self.engine.open()
        self.streams[stream_id] = Tracked()
        return stream_id

    def extend(self, stream_id: int, ids: Sequence[int], *, head: Side | None = Side.RESPONSE) -> None:
        self.engine.extend(stream_id, ids, head=head)
        self.streams[stream_id].ids += ids
        self.streams[stream_id].sides += [head] * len(ids)

    def step(self) -> list[StepOutput]:
        outputs = self.engine.step()
        for stream_id, position, opinion in opinions_of(outputs):
            given = self.streams[stream_id].given
            assert position not in given, f"position {position} of stream {stream_id} was judged twice"
            given[position] = opinion
        return outputs

    def drain(self) -> None:
        num_steps = 0
        while any(self.engine.num_queued(stream_id) for stream_id in self.streams):
            self.step()
            num_steps += 1
            assert num_steps < 5000, "the queue does not empty"

    def feed(self, stream_id: int, ids: Sequence[int], *, head: Side | None = Side.RESPONSE) -> None:
        self.extend(stream_id, ids, head=head)
        self.drain()

    def truncate(self, stream_id: int, length: int) -> None:
        self.engine.truncate(stream_id, length)
        tracked = self.streams[stream_id]
        del tracked.ids[length:], tracked.sides[length:]
        tracked.given = {at: opinion for at, opinion in tracked.given.items() if at < length}

    def fork(self, stream_id: int) -> int:
        other = self.engine.fork(stream_id)
        source = self.streams[stream_id]
        self.streams[other] = Tracked(list(source.ids), list(source.sides), dict(source.given))
        return other

    def close(self, stream_id: int) -> None:
        self.engine.close(stream_id)
        del self.streams[stream_id]

    def check(self, *stream_ids: int) -> None:
        """Every token that has a side was judged once, as one full pass judges it."""
        self.drain()
        for stream_id in stream_ids or tuple(self.streams):
            tracked = self.streams[stream_id]
            assert self.engine.length(stream_id) == len(tracked.ids)
            expected = full_pass(self.model, tracked.ids, tracked.sides) if tracked.ids else {}
            assert_same(tracked.given, expected)
