"""Streaming guardrails: judges prompts, responses and every token of a response while it is generated."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamward.errors import (
        CheckpointError,
        ConfigError,
        ContextLengthError,
        InputError,
        OverloadedError,
        StreamClosedError,
        StreamwardError,
        UpstreamError,
    )
    from streamward.loading import load
    from streamward.moderation.moderator import Moderator
    from streamward.policy import Policy
    from streamward.schema import (
        Action,
        Category,
        Decision,
        Event,
        FirstFlagged,
        Message,
        Result,
        RiskLevel,
        Role,
        Side,
        SideResult,
        Span,
        Verdict,
    )

_HOMES = {
    "loading": ("load",),
    "moderation.moderator": ("Moderator",),
    "policy": ("Policy",),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "ContextLengthError",
        "InputError",
        "OverloadedError",
        "StreamClosedError",
        "StreamwardError",
        "UpstreamError",
    ),
    "schema": (
        "Action",
        "Category",
        "Decision",
        "Event",
        "FirstFlagged",
        "SideResult",
        "Message",
        "Result",
        "RiskLevel",
        "Role",
        "Side",
        "Span",
        "Verdict",
    ),
}

__all__ = [
    "Action",
    "Category",
    "CheckpointError",
    "ConfigError",
    "ContextLengthError",
    "Decision",
    "Event",
    "FirstFlagged",
    "InputError",
    "Message",
    "Moderator",
    "OverloadedError",
    "Policy",
    "Result",
    "RiskLevel",
    "Role",
    "Side",
    "SideResult",
    "Span",
    "StreamClosedError",
    "StreamwardError",
    "UpstreamError",
    "Verdict",
    "load",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that a policy can be read without loading torch."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"streamward.{module}"), name)
    raise AttributeError(f"module 'streamward' has no attribute {name!r}")
