"""Messages between a service and the replicas of its guard: token ids and probabilities, never text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamward.engine.outputs import StepOutput
from streamward.errors import StreamwardError
from streamward.moderation.token_scorer import Segment
from streamward.schema import Side


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """New tokens of a stream.

    Attributes:
        stream: Name of this stream on this replica. Another replica gets another name, so that an old copy that a
            replica still has is never taken for the stream.
        start: Tokens that the stream has before these; what the replica has beyond is to be dropped.
        segments: The tokens.
        owner: For whom they are read; the replica divides its steps between owners.
    """

    stream: str
    start: int
    segments: Sequence[Segment]
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """Probabilities of successive tokens of one side; arrays, because a slice of a tensor is pickled as a whole."""

    position: int
    side: Side
    risk_probs: NDArray[np.float32]
    category_probs: NDArray[np.float32]

    @classmethod
    def of(cls, output: StepOutput) -> "Output":
        """Take an engine's output."""
        return cls(output.position, output.side, output.risk_probs, output.category_probs)


@dataclass(frozen=True, slots=True)
class ReadReply:
    """Outcome of a read.

    Attributes:
        replica: Who answers.
        outputs: Outputs of the judged tokens, in order.
        is_unknown: The replica does not have the stream up to `start`; nothing was read.
        error: Why nothing was read; the stream is as it was.
    """

    replica: str
    outputs: Sequence[Output] = ()
    is_unknown: bool = False
    error: StreamwardError | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """The guard that a replica has.

    Attributes:
        guard: As it was named to the replica.
        guard_config: Its labels and lines, a `GuardConfig`.
        max_stream_tokens: Most tokens of one stream.
    """

    guard: str
    guard_config: Any  # Any: keeps this module's readers from importing the model
    max_stream_tokens: int
