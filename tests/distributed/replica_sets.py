"""Replicas in this process that can be killed, and a guard read by them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from streamward.distributed.remote import RemoteTokenScorer, ReplicaLostError
from streamward.distributed.replica import GuardReplica
from streamward.distributed.wire import ReadReply, ReadRequest
from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.torch_runner import TorchModelRunner
from streamward.errors import OverloadedError
from streamward.moderation.moderator import Moderator
from streamward.moderation.stream_guard import StreamGuard
from streamward.policy import Policy
from streamward.schema import Verdict
from tests.moderation.guards import guard_tokenizer, random_model

TOLERANCE = 1e-5


class Clock:
    """Time that passes only when somebody waits or says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class LocalReplicaSet:
    """A replica_set whose router knows who is there, like Ray Serve's."""

    def __init__(self, num_replicas: int, *, window_tokens: int | None = None, **limits: int) -> None:
        self.clock = Clock()
        self.replicas: dict[str, GuardReplica] = {}
        self.requests: list[tuple[str, ReadRequest]] = []
        self.before_reply: Callable[[str], None] = lambda name: None
        self.is_closed = False
        self._window_tokens = window_tokens
        self._limits = limits
        self._num_started = 0
        self._turn = 0
        for _ in range(num_replicas):
            self.start()

    def start(self) -> str:
        """Add a replica, which never has the name of an earlier one."""
        self._num_started += 1
        name = f"replica-{self._num_started}"
        config = EngineConfig.model_validate({"page_tokens": 16, "kv_cache_bytes": 2**24, **self._limits})
        engine = Engine(config, TorchModelRunner(random_model(window_tokens=self._window_tokens), config))
        self.replicas[name] = GuardReplica(engine, guard="tiny", name=name, idle_s=60.0, clock=self.clock)
        return name

    def kill(self, name: str) -> None:
        """Lose a replica and all it holds."""
        del self.replicas[name]

    def read(self, request: ReadRequest, *, replica: str | None, timeout_s: float) -> ReadReply:
        if not self.replicas:
            self.clock.wait(timeout_s)
            raise OverloadedError("nobody is there")
        name = replica if replica in self.replicas else self._next()
        assert name is not None
        self.requests.append((name, request))
        reply = self.replicas[name].read(request)
        self.before_reply(name)
        if name not in self.replicas:
            raise ReplicaLostError("killed on the way")
        return reply

    def forget(self, stream: str, *, replica: str) -> None:
        if replica in self.replicas:
            self.replicas[replica].forget(stream)

    def close(self) -> None:
        self.is_closed = True

    @property
    def num_streams(self) -> int:
        return sum(replica.num_streams for replica in self.replicas.values())

    def _next(self) -> str:
        self._turn += 1
        names = sorted(self.replicas)
        return names[self._turn % len(names)]


def remote_driver(replica_set: LocalReplicaSet) -> RemoteTokenScorer:
    description = next(iter(replica_set.replicas.values())).describe()
    return RemoteTokenScorer(
        replica_set, description, timeout_s=10.0, clock=replica_set.clock, pause=replica_set.clock.wait
    )


@contextmanager
def remote_moderator(replica_set: LocalReplicaSet, *, policy: str = "strict") -> Iterator[Moderator]:
    guard = StreamGuard(guard_tokenizer(), remote_driver(replica_set))
    with Moderator(guard, policy=Policy.load(policy)) as moderator:
        yield moderator


def assert_same(found: Sequence[Verdict], expected: Sequence[Verdict]) -> None:
    """Levels, categories and characters are equal, and probabilities up to rounding."""
    assert [(v.position, v.risk_level, v.category, v.span) for v in found] == [
        (v.position, v.risk_level, v.category, v.span) for v in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert all(
            abs(one.probabilities[level] - other.probabilities[level]) < TOLERANCE for level in one.probabilities
        )
