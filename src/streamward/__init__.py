"""Streaming guardrails: judges prompts, responses and every token of a response while it is generated."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamward.client.client import Client, connect
    from streamward.client.replies import (
        ModerationDetails,
        ModerationList,
        PolicyReference,
        ServiceResult,
        TextModeration,
    )
    from streamward.client.streams import AsyncRemoteStream, RemoteStream
    from streamward.engine.config import EngineConfig
    from streamward.errors import (
        AuditError,
        AuthenticationError,
        CallCancelledError,
        CheckpointError,
        ConfigError,
        ContextLengthError,
        ForbiddenError,
        GuardFailedError,
        InputError,
        OverloadedError,
        RateLimitError,
        RequestTooLargeError,
        StreamClosedError,
        StreamwardError,
        UpstreamError,
        UpstreamUnavailableError,
    )
    from streamward.loading import load
    from streamward.moderation.async_stream import AsyncGuardStream
    from streamward.moderation.guard_stream import GuardStream
    from streamward.moderation.health import GuardHealth
    from streamward.moderation.moderator import Moderator
    from streamward.policy import CategoryPolicy, FailurePolicy, Policy, SidePolicy, TextRetention, Thresholds
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
    from streamward.text_release import BlockedError, arelease, raise_if_blocked, release
    from streamward.vllm.config import VllmConfig

    __version__: str

_HOMES = {
    "client.client": ("Client", "connect"),
    "client.replies": ("ModerationDetails", "ModerationList", "PolicyReference", "ServiceResult", "TextModeration"),
    "client.streams": ("AsyncRemoteStream", "RemoteStream"),
    "engine.config": ("EngineConfig",),
    "errors": (
        "AuditError",
        "AuthenticationError",
        "CallCancelledError",
        "CheckpointError",
        "ConfigError",
        "ContextLengthError",
        "ForbiddenError",
        "GuardFailedError",
        "InputError",
        "OverloadedError",
        "RateLimitError",
        "RequestTooLargeError",
        "StreamClosedError",
        "StreamwardError",
        "UpstreamError",
        "UpstreamUnavailableError",
    ),
    "loading": ("load",),
    "moderation.async_stream": ("AsyncGuardStream",),
    "moderation.guard_stream": ("GuardStream",),
    "moderation.health": ("GuardHealth",),
    "moderation.moderator": ("Moderator",),
    "policy": ("CategoryPolicy", "FailurePolicy", "Policy", "SidePolicy", "TextRetention", "Thresholds"),
    "text_release": ("BlockedError", "arelease", "raise_if_blocked", "release"),
    "schema": (
        "Action",
        "Category",
        "Decision",
        "Event",
        "FirstFlagged",
        "Message",
        "Result",
        "RiskLevel",
        "Role",
        "Side",
        "SideResult",
        "Span",
        "Verdict",
    ),
    "vllm.config": ("VllmConfig",),
}
_MODULES = {name: f"streamward.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "Action",
    "AsyncGuardStream",
    "AsyncRemoteStream",
    "AuditError",
    "AuthenticationError",
    "BlockedError",
    "CallCancelledError",
    "Category",
    "CategoryPolicy",
    "CheckpointError",
    "Client",
    "ConfigError",
    "ContextLengthError",
    "Decision",
    "EngineConfig",
    "Event",
    "FailurePolicy",
    "FirstFlagged",
    "ForbiddenError",
    "GuardFailedError",
    "GuardHealth",
    "GuardStream",
    "InputError",
    "Message",
    "ModerationDetails",
    "ModerationList",
    "Moderator",
    "OverloadedError",
    "Policy",
    "PolicyReference",
    "RateLimitError",
    "RemoteStream",
    "RequestTooLargeError",
    "Result",
    "RiskLevel",
    "Role",
    "ServiceResult",
    "Side",
    "SidePolicy",
    "SideResult",
    "Span",
    "StreamClosedError",
    "StreamwardError",
    "TextModeration",
    "TextRetention",
    "Thresholds",
    "UpstreamError",
    "UpstreamUnavailableError",
    "Verdict",
    "VllmConfig",
    "__version__",
    "arelease",
    "connect",
    "load",
    "raise_if_blocked",
    "release",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import streamward` takes milliseconds and loads no torch."""
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("streamward")
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'streamward' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
