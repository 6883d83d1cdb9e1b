"""HTTP statuses and WebSocket close codes of our errors. They stand here and nowhere else."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from streamward.errors import (
    AuditError,
    AuthenticationError,
    CallCancelledError,
    CheckpointError,
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
    error_type,
)
from streamward.validation import findings

RETRY_AFTER_S = 1
"""Seconds after which callers of an overloaded service should try again."""


class ErrorMapping(NamedTuple):
    """HTTP status and OpenAI-style type of an error."""

    status: int
    """HTTP status."""
    close_code: int
    """WebSocket close code."""
    kind: str
    """`type` of OpenAI's error object."""


# These are counted, so that an operator sees how many requests are turned away.
_REFUSALS = frozenset({401, 403, 429, 503})
_INTERNAL = ErrorMapping(500, 1011, "server_error")
_ANSWERS: Mapping[type[StreamwardError], ErrorMapping] = {
    AuthenticationError: ErrorMapping(401, 1008, "authentication_error"),
    ForbiddenError: ErrorMapping(403, 1008, "permission_error"),
    RateLimitError: ErrorMapping(429, 1013, "rate_limit_error"),
    ContextLengthError: ErrorMapping(413, 1009, "invalid_request_error"),
    RequestTooLargeError: ErrorMapping(413, 1009, "invalid_request_error"),
    InputError: ErrorMapping(400, 1007, "invalid_request_error"),
    StreamClosedError: ErrorMapping(409, 1008, "invalid_request_error"),
    OverloadedError: ErrorMapping(503, 1013, "overloaded_error"),
    GuardFailedError: ErrorMapping(503, 1013, "server_error"),
    CallCancelledError: ErrorMapping(503, 1013, "server_error"),
    AuditError: ErrorMapping(503, 1011, error_type(AuditError.code)),
    UpstreamError: ErrorMapping(502, 1011, "upstream_error"),
    CheckpointError: ErrorMapping(500, 1011, "server_error"),
}
_NO_ROUTE = (
    "There is no such route. Guarded models have POST /NAME/v1/chat/completions, /completions, /responses and"
    " /embeddings, and GET /NAME/v1/models; all routes stand in /openapi.json."
)
_PLACES = frozenset({"body", "query", "path", "header"})
_HTTP_CODES: Mapping[int, str] = {404: "not_found", 405: "method_not_allowed", 400: "invalid_input"}


class ErrorObject(BaseModel):
    """The error object in the body of an error response."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error in OpenAI's shape."""

    error: ErrorObject


ERRORS: dict[int | str, dict[str, Any]] = {  # Any: FastAPI's own type
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "Something in the request can never work.",
        401: "The API key is missing, wrong or revoked.",
        403: "The API key is not for this.",
        405: "There is no such method.",
        409: "The stream is closed, or was never open.",
        413: "The text is too long (`context_length_exceeded`), or the body too large (`request_too_large`).",
        429: "The key's own limit is reached; see Retry-After.",
        500: "Something of ours broke.",
        502: "The guard failed.",
        503: "No room at present, the guard does not work, or decisions cannot be logged; see Retry-After.",
    }.items()
}
"""OpenAPI descriptions of the error responses of routes."""


def answer_for(error: StreamwardError) -> ErrorMapping:
    """Return how an error is told; that of the nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in _ANSWERS:
            return _ANSWERS[kind]
    return _INTERNAL


def error_body(
    message: str, *, kind: str, code: str | None, param: str | None = None
) -> dict[str, dict[str, str | None]]:
    """Return an error object in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_headers(error: StreamwardError) -> dict[str, str]:
    """Return the headers an error comes with."""
    if isinstance(error, RateLimitError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if answer_for(error).status == 503:
        return {"Retry-After": str(RETRY_AFTER_S)}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, AuthenticationError) else {}


def error_response(error: StreamwardError) -> JSONResponse:
    """Return an error as a response."""
    answer = answer_for(error)
    body = error_body(str(error), kind=answer.kind, code=error.code)
    return JSONResponse(body, answer.status, headers=error_headers(error))


def install_error_handlers(app: FastAPI) -> None:
    """Make routes answer our errors, and the framework's, in one shape."""
    app.add_exception_handler(StreamwardError, _on_known)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


async def _on_known(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StreamwardError)
    request.state.error_code = error.code
    if answer_for(error).status in _REFUSALS:
        request.app.state.service.metrics.rejected(error.code)
    return error_response(error)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    request.state.error_code = InputError.code
    if isinstance(error.body, bytes) and error.body:  # the framework parses only JSON
        return error_response(InputError("the body must be JSON, with the header Content-Type: application/json"))
    found = findings(
        [{**item, "loc": _inner(item["loc"])} for item in error.errors()],
        _body_type(request),
        names_keys=False,  # the values are the caller's text
        table="an object",
        whole="the body",
    )
    message = "; ".join(map(str, found))
    body = error_body(message, kind="invalid_request_error", code=InputError.code, param=found[0].path or None)
    return JSONResponse(body, 400)


def _inner(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Leave out which part of a request a value was in."""
    return location[1:] if location and location[0] in _PLACES else location


def _body_type(request: Request) -> object:
    """Return the type of the body of the route that was asked for; None if it has none."""
    field = getattr(request.scope.get("route"), "body_field", None)
    return None if field is None else field.field_info.annotation


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "http_error")
    request.state.error_code = code
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    message = _NO_ROUTE if error.detail == HTTPStatus.NOT_FOUND.phrase else str(error.detail)
    body = error_body(message, kind=kind, code=code)
    return JSONResponse(body, error.status_code, headers=error.headers)
