"""Every exception a caller may catch, and its stable code."""

from typing import ClassVar


class StreamwardError(Exception):
    """Base of every error this package raises on purpose."""

    code: ClassVar[str] = "internal"  # part of the API: never renamed


class ConfigError(StreamwardError, ValueError):
    """A setting, a policy or a model name is wrong; raised before any work starts."""

    code = "invalid_config"


class InputError(StreamwardError, ValueError):
    """The caller sent something that can never work."""

    code = "invalid_input"


class ContextLengthError(InputError):
    """The text is longer than the model or a limit allows."""

    code = "context_length_exceeded"


class RequestTooLargeError(InputError):
    """The body of a request has more bytes than are accepted. A shorter text may not help."""

    code = "request_too_large"


class StreamClosedError(StreamwardError):
    """The stream was closed, has expired, or was never opened."""

    code = "stream_closed"


class CallCancelledError(StreamwardError):
    """Whoever made the call does not want its answer any more."""

    code = "cancelled"


class GuardFailedError(StreamwardError):
    """The guard failed, or its engine has failed again and again and answers nothing at present."""

    code = "guard_failed"


class OverloadedError(StreamwardError):
    """A queue or the KV cache is full; the same call may succeed later."""

    code = "overloaded"


class CheckpointError(StreamwardError):
    """Weights or model files are missing, misnamed or misshapen."""

    code = "invalid_checkpoint"


class UpstreamError(StreamwardError):
    """A remote guard or the guarded model failed or gave an unreadable answer."""

    code = "upstream_failed"


class UpstreamUnavailableError(UpstreamError):
    """A remote guard did not answer at all: it is late, out of reach, or refuses every request."""

    code = "upstream_unavailable"


class AuthenticationError(StreamwardError):
    """The API key is missing, wrong or revoked."""

    code = "invalid_api_key"


class ForbiddenError(StreamwardError):
    """The API key is good, but not for this."""

    code = "forbidden"


class RateLimitError(StreamwardError):
    """The key's own limit is reached; the same call may succeed later."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        """Say when to come again."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AuditError(StreamwardError):
    """A decision could not be written down, so it must not be acted on."""

    code = "audit_failed"


def error_type(code: str) -> str:
    """Return `type` of OpenAI's error object for a failure behind the gateway: of the log, or of the upstream."""
    return "audit_error" if code == AuditError.code else "upstream_error"
