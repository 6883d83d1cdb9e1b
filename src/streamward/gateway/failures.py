"""Answers where the upstream gave none that can be passed on."""

import re

from streamward.errors import UpstreamError
from streamward.gateway.intake import Head
from streamward.gateway.outcome import Answer
from streamward.gateway.strict_json import JsonObject, dump, parse_object
from streamward.gateway.upstream import UpstreamTimeoutError

_PASSED = frozenset({400, 404, 409, 413, 422, 429, 503, 504})  # other statuses are not the client's business
_MAX_MESSAGE_CHARS = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def read_message(data: bytes) -> str | None:
    """Return what an upstream's error says, on one line; None if it says nothing."""
    try:
        error = parse_object(data).get("error")
    except ValueError:
        return None
    message = error.get("message") if isinstance(error, dict) else error
    if not isinstance(message, str) or not message.strip():
        return None
    return _CONTROL.sub(" ", message)[:_MAX_MESSAGE_CHARS]


def answer_of_upstream(head: Head, message: str | None) -> Answer:
    """Return the answer to a request that the upstream refused.

    Args:
        head: How the upstream answered.
        message: What it said, if that may be shown. What is wrong between us and the upstream, our key for one, is not.
    """
    is_passed = head.status in _PASSED
    status = head.status if is_passed else 502
    said = message if message and is_passed else f"The upstream answered with status {head.status}."
    code = {404: "upstream_not_found", 429: "rate_limit_exceeded"}.get(status, UpstreamError.code)
    kind = "invalid_request_error" if status < 429 else "upstream_error"
    headers = {"Retry-After": head.retry_after} if head.retry_after and status in (429, 503) else {}
    return Answer(status, dump(_error(said, kind, code)), headers=headers)


def answer_of_failure(error: UpstreamError) -> Answer:
    """Return the answer where the upstream did not answer, or not in a way that can be read."""
    status = 504 if isinstance(error, UpstreamTimeoutError) else 502
    return Answer(status, dump(_error(str(error), "upstream_error", error.code)))


def _error(message: str, kind: str, code: str) -> JsonObject:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
