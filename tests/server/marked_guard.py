"""A real guard over a real engine whose weights are written by hand: `#` is unsafe, everything else is safe.

A token of a response is Unsafe (Violent) if it is a `#`; a prompt is if it has one. So with the usual policy a response
is blocked at the second of two successive `#`.
"""

import torch

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.torch_runner import TorchModelRunner
from streamward.model.guard_model import GuardModel
from streamward.moderation.engine_worker import EngineWorker
from streamward.moderation.moderator import Moderator
from streamward.moderation.stream_guard import StreamGuard
from streamward.policy import Policy
from streamward.schema import Side
from tests.moderation.guards import guard_tokenizer, random_model

SAFE, MARKED, SEEN = 0, 1, 2  # dimensions of the hidden state: this token is safe; is marked; one before was
_SHARPNESS = 5.0
_ATTENTION = 1e4


def marked_model() -> GuardModel:
    """Attention is uniform and carries the marks of what came before into a dimension that only prompts are read at."""
    model = random_model().float()
    mark = guard_tokenizer().encode("#").ids[0]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.zero_()
        model.decoder.embed.weight[:, SAFE] = 1.0
        model.decoder.embed.weight[mark, SAFE] = 0.0
        model.decoder.embed.weight[mark, MARKED] = 1.0
        layer = model.decoder.layers[0]
        first_value = 6 * 8  # rows of queries and keys before it: 4 + 2 heads of 8
        layer.get_parameter("qkv.weight")[first_value, MARKED] = 1.0
        layer.get_parameter("out.weight")[SEEN, 0] = _ATTENTION
        for side, dimension in ((Side.PROMPT, SEEN), (Side.RESPONSE, MARKED)):
            heads = model.heads(side)
            heads.get_parameter("pre.weight")[0, SAFE] = 1.0
            heads.get_parameter("pre.weight")[1, dimension] = 1.0
            heads.get_parameter("risk.weight")[0, 0] = _SHARPNESS  # published order: Safe, Unsafe, Controversial
            heads.get_parameter("risk.weight")[1, 1] = _SHARPNESS
            heads.get_parameter("category.weight")[0, 1] = _SHARPNESS
    return model


MASKING = """
name = "masking"
[[detectors]]
type = "email"
[[detectors]]
type = "words"
id = "names"
words = ["zeus"]
action = "block"
"""
"""A policy that masks addresses and blocks a word."""


def marked_guard(model: GuardModel | None = None) -> StreamGuard:
    """The guard, with its own weights or those given."""
    config = EngineConfig(page_tokens=16, kv_cache_bytes=2**24)
    return StreamGuard(
        guard_tokenizer(), EngineWorker(Engine(config, TorchModelRunner(model or marked_model(), config)))
    )


def marked_moderator(policy: str | Policy = "strict", *, model: GuardModel | None = None) -> Moderator:
    """The guard under a policy; close it."""
    return Moderator(marked_guard(model), policy=Policy.load(policy))
