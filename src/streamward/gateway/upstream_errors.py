"""Answers where the upstream gave none that can be passed on."""

from collections.abc import Mapping
from dataclasses import replace

from streamward.errors import StreamwardError, UpstreamError, error_type
from streamward.gateway.call_record import GatewayResponse
from streamward.gateway.reported_errors import ErrorReport
from streamward.gateway.strict_json import JsonObject, dump
from streamward.gateway.upstream import UpstreamTimeoutError

_PASSED = frozenset({400, 404, 409, 413, 422, 429, 503, 504})  # other statuses do not concern the client
_OURS = frozenset({401, 402, 403, 407})  # these concern our own key and account at the upstream
_OVERLOADED = 529
_CODES = {404: "upstream_not_found", 429: "rate_limit_exceeded"}
_REPORTED = "The upstream reported an error."


def answer_of_report(report: ErrorReport, *, status: int, headers: Mapping[str, str]) -> GatewayResponse:
    """Return the answer where the upstream says what is wrong.

    Args:
        report: What it says; its sentence is one that the guard let through.
        status: Its HTTP status; 200 where the error came as an answer.
        headers: When to try again, as it asks for.
    """
    status = status if status != 200 else report.status or 502
    told = told_of_report(replace(report, status=status))
    answered = status if status in _PASSED else 503 if status == _OVERLOADED else 502
    message = told.message or (_REPORTED if status == 502 else f"The upstream answered with status {status}.")
    code = told.code if told.code is not None else _CODES.get(answered, UpstreamError.code)
    kind = told.kind or ("invalid_request_error" if answered < 429 else "upstream_error")
    body = dump({"error": _error(message, kind, code, told.param)})
    return GatewayResponse(answered, body, headers=headers if answered in (429, 503) else {})


def told_of_report(report: ErrorReport) -> ErrorReport:
    """Return what a client may know of an error: nothing if it is between us and the upstream."""
    is_told = report.status is None or (report.status >= 400 and report.status not in _OURS)
    return report if is_told else ErrorReport(status=report.status)


def error_of_report(report: ErrorReport) -> JsonObject:
    """Return what a stream says of an error that ends it: `message`, `type`, `param` and `code`."""
    told = told_of_report(report)
    code = UpstreamError.code if told.code is None else told.code
    return _error(told.message or _REPORTED, told.kind or "upstream_error", code, told.param)


def answer_of_failure(error: UpstreamError) -> GatewayResponse:
    """Return the answer where the upstream did not answer, or not in a way that can be read."""
    status = 504 if isinstance(error, UpstreamTimeoutError) else 502
    return GatewayResponse(status, dump({"error": error_of_failure(error)}))


def error_of_failure(error: StreamwardError) -> JsonObject:
    """Return what a client is told of an error of ours: `message`, `type`, `param` and `code`."""
    return _error(str(error), error_type(error.code), error.code)


def _error(message: str, kind: str, code: str | int, param: str | None = None) -> JsonObject:
    return {"message": message, "type": kind, "param": param, "code": code}
