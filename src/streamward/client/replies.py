"""Replies of the service as plain data, and its errors as the exceptions that the library raises itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from streamward import errors
from streamward.errors import InputError, RateLimitError, StreamwardError, UpstreamError
from streamward.schema import Category, Decision, FiredRule, Result, RiskLevel, Span

JsonObject = dict[str, Any]  # Any: JSON values
T = TypeVar("T")

_BY_CODE: Mapping[str, type[StreamwardError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, StreamwardError) and kind is not RateLimitError
}
_RETRY_AFTER_S = 1.0  # used if a 429 does not say how long to wait


@dataclass(frozen=True, slots=True)
class PolicyReference:
    """The policy by which the service decided.

    Attributes:
        name: Name of the policy.
        version: Version that its author gave it.
        digest: Hash of its content, which tells apart policies of one name and version.
    """

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceResult(Result):
    """A result of `POST /v1/guard`.

    Attributes:
        id: Id of the request, as in the service's log of decisions.
        guard: Name of the guard that judged.
        policy: The policy that decided.
        num_tokens: Tokens that the guard judged.
        guard_ms: Milliseconds that the request waited for the guard.
    """

    id: str
    guard: str
    policy: PolicyReference
    num_tokens: int = 0
    guard_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class ModerationDetails:
    """Fields for which OpenAI's moderation format has no place.

    Attributes:
        risk_level: Level of the text; None if the guard failed.
        categories: Whether the guard names each of its nine categories.
        probabilities: Probability of each level; None if the guard failed.
        refusal: Whether a response declines to help; None where the guard does not say.
        first_flagged_char: Index of the first character of the first flagged token; None if no token was flagged.
        span: Characters of that token; None likewise.
        decision: The policy's conclusion.
        policy: The policy that decided.
        rules: Rules of the policy that fired, with their scores.
    """

    risk_level: RiskLevel | None
    categories: Mapping[Category, bool]
    probabilities: Mapping[RiskLevel, float] | None
    refusal: bool | None
    first_flagged_char: int | None
    span: Span | None
    decision: Decision
    policy: PolicyReference
    rules: tuple[FiredRule, ...] = ()


@dataclass(frozen=True, slots=True)
class TextModeration:
    """The moderation of one text, in OpenAI's format.

    Attributes:
        flagged: Whether the policy's action is anything but allow.
        categories: Whether each of OpenAI's 13 categories applies.
        category_scores: P(Unsafe) + P(Controversial) for the categories that the guard names, else 0.
        category_applied_input_types: `("text",)` for categories that the guard judges, else empty.
        streamward: What OpenAI's format has no field for.
    """

    flagged: bool
    categories: Mapping[str, bool]
    category_scores: Mapping[str, float]
    category_applied_input_types: Mapping[str, tuple[str, ...]]
    streamward: ModerationDetails


@dataclass(frozen=True, slots=True)
class ModerationList:
    """The reply of `POST /v1/moderations`.

    Attributes:
        id: Id of the reply.
        model: Name of the guard that judged.
        results: One for each text, in the order given.
    """

    id: str
    model: str
    results: tuple[TextModeration, ...]


def parse(shape: TypeAdapter[T], data: bytes | str | object) -> T:
    """Read a reply of a known shape; keys that this version does not know are ignored.

    Raises:
        UpstreamError: It has another shape.
    """
    try:
        return shape.validate_json(data) if isinstance(data, bytes | str) else shape.validate_python(data)
    except ValidationError as error:
        raise UpstreamError("the service's reply has another format; is it a Streamward service?") from error


def error_of(code: str | None, message: str, *, status: int = 0, retry_after_s: float | None = None) -> StreamwardError:
    """Return the exception that an error of the service stands for.

    Args:
        code: The stable code of the error object.
        message: What the service says.
        status: HTTP status, which decides where the code is not one of ours (`not_found`).
        retry_after_s: Value of the header Retry-After.
    """
    if code == RateLimitError.code:
        return RateLimitError(message, retry_after_s=_RETRY_AFTER_S if retry_after_s is None else retry_after_s)
    if code is not None and code in _BY_CODE:
        return _BY_CODE[code](message)
    kind = InputError if 400 <= status < 500 else UpstreamError
    return kind(message)


def error_of_response(status: int, headers: Mapping[str, str], body: bytes | bytearray) -> StreamwardError:
    """Return the exception that a response with an error status stands for."""
    try:
        told = json.loads(body)["error"]
        code, message = told["code"], str(told["message"])
    except (ValueError, KeyError, TypeError):
        return UpstreamError(f"the service replied with status {status} and no error object")
    given = headers.get("retry-after", "")
    retry_after_s = float(given) if given.isdecimal() else None
    return error_of(code if isinstance(code, str) else None, message, status=status, retry_after_s=retry_after_s)
