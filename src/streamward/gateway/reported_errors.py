"""Errors reported by upstreams, in the shapes that servers use: the body of an error, or a part of an answer."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from streamward.errors import UpstreamError
from streamward.gateway.strict_json import JsonObject, parse_answer

T = TypeVar("T")

_MESSAGES = (
    "message", "msg", "detail", "error_message", "errormessage", "error_msg", "errormsg", "error_description",
    "status_msg", "faultstring", "exception",
)  # fmt: skip
_SENTENCES = (*_MESSAGES, "error", "title", "reason")
_CODES = ("code", "error_code", "errorcode", "err_code", "status_code", "statuscode", "status")
_KINDS = ("type", "error_type", "errortype", "err_type", "__type", "status")
_NESTED = ("x_groq", "error", "errors", "fault", "data", "message", "detail", "base_resp", "response")
_FAILED_REASONS = frozenset({"error", "abort", "insufficient_system_resource", "network_error"})
_NO_CODES = frozenset({0, 200, "0", "200", "ok", "success", ""})
_SAYS_NOTHING = frozenset({"error", "errors", "fail", "failed", "failure"})
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_PLACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\[\]-]{0,127}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MAX_MESSAGE_CHARS = 1000
_MAX_NESTED = 4
_MAX_DETAILS = 5


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """An upstream's error. Nobody has judged the sentence; the rest are names and numbers.

    Attributes:
        message: The sentence, on one line; None if it says none.
        code: Which error it is.
        kind: Which kind of error.
        param: Which field of the request is wrong.
        status: HTTP status that it states.
        source: The JSON or the words that this was read from, uncut.
    """

    message: str | None = None
    code: str | int | None = None
    kind: str | None = None
    param: str | None = None
    status: int | None = None
    source: object = field(default=None, repr=False, compare=False)

    def names(self, secret: str) -> bool:
        """Return whether a secret stands anywhere in what this was read from, or in what became of it."""
        return any(secret in said for said in _leaves([self.source, self.message, self.code, self.kind, self.param]))


class ReportedError(UpstreamError):
    """The upstream answered that something went wrong. The text of this exception holds none of its words."""

    def __init__(self, report: ErrorReport) -> None:
        """Keep what it says."""
        super().__init__("the upstream reported an error in its answer")
        self.report = report


def find_report(body: object) -> ErrorReport | None:
    """Return the error that a part of an answer is or holds; None if it is an answer."""
    if isinstance(body, list) and body:
        return find_report(body[0])
    if not isinstance(body, dict):
        return None
    if _is_error(body):
        return read_report(body)
    for choice in _objects(body.get("choices")):
        reason = choice.get("finish_reason")
        name = reason.get("type") if isinstance(reason, dict) else reason
        if is_set(choice.get("error")) or (isinstance(name, str) and name in _FAILED_REASONS):
            return read_report(choice.get("error") or (reason if isinstance(reason, dict) else {"code": reason}))
    return None


def read_report(body: object) -> ErrorReport:
    """Return what an error says, wherever in it that stands."""
    if isinstance(body, list) and body and isinstance(body[0], str):
        body = body[0]
    if isinstance(body, str):
        return ErrorReport(_sentence(body), source=body)
    layers = list(reversed(list(_layers(body, _MAX_NESTED))))
    code = _first(layers, _CODES, _code)
    report = ErrorReport(
        message=_first(layers, _SENTENCES, _sentence),
        code=code,
        kind=_first(layers, _KINDS, _kind),
        param=_first(layers, ("param",), lambda value: _matching(value, _PLACE)),
        status=_first(layers, ("status", "http_status", *_CODES), _status),
        source=body,
    )
    name = _first(layers, ("error",), _kind)  # OAuth has a code here and the sentence in another field
    if report.code is None and name != report.message:
        report = replace(report, code=name)
    details = _first(layers, ("detail",), lambda value: value if isinstance(value, list) else None)
    return report if details is None else _of_details(details, report)


def _is_error(body: JsonObject) -> bool:
    vendor = body.get("x_groq")
    if any(is_set(holder.get(name)) for holder in (body, *_objects([vendor])) for name in ("error", "errors")):
        return True
    kind = body.get("type")
    if kind in ("error", "response.failed") or body.get("object") == "error":
        return True
    status = body.get("base_resp")
    if isinstance(status, dict) and _is_error_code(_lowered(status).get("status_code")):
        return True
    response = body if body.get("object") == "response" else body.get("response")
    if isinstance(response, dict) and (is_set(response.get("error")) or response.get("status") == "failed"):
        return True
    if body.get("choices") or body.get("object") or (isinstance(kind, str) and kind.startswith("response.")):
        return False
    return _is_bare_error(_lowered(body))


def _is_bare_error(body: Mapping[str, object]) -> bool:
    """Return whether an object that is no part of an answer says what went wrong."""
    data = body.get("data")
    if any(is_set(body.get(name)) for name in ("detail", "fault", "exception")):
        return True
    if body.get("ok") is False or body.get("success") is False:
        return True
    if isinstance(data, dict) and is_set(data.get("error")):
        return True
    codes = [body[name] for name in _CODES if isinstance(body.get(name), str | int | float)]
    if not any(isinstance(body.get(name), str) and body[name] for name in _MESSAGES):
        return False
    return any(map(_is_error_code, codes)) if codes else not body.get("type")


def _is_error_code(value: object) -> bool:
    return isinstance(value, str | int | float) and value not in _NO_CODES


def is_set(value: object) -> bool:
    """Return whether something is said here: some servers send an error without any content beside every answer."""
    return any(is_set(item) for item in value.values()) if isinstance(value, dict) else bool(value)


def _layers(value: object, depth: int) -> Iterator[Mapping[str, object]]:
    """Yield the objects of an error, from the outermost to the innermost."""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, str) and value.lstrip().startswith("{"):  # JSON within a string, as some proxies pass it on
        with suppress(ValueError):
            value = parse_answer(value.encode())
    if not isinstance(value, dict) or not depth:
        return
    layer = _lowered(value)
    yield layer
    for name in _NESTED:
        yield from _layers(layer.get(name), depth - 1)


def _lowered(body: JsonObject) -> dict[str, object]:
    return {name.lower(): value for name, value in body.items()}


def _first(layers: list[Mapping[str, object]], names: tuple[str, ...], read: Callable[[object], T]) -> T | None:
    found = (read(layer[name]) for layer in layers for name in names if name in layer)
    return next((value for value in found if value is not None), None)


def _sentence(value: object) -> str | None:
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        return None
    return _CONTROL.sub(" ", value).strip()[:_MAX_MESSAGE_CHARS] or None


def _code(value: object) -> str | int | None:
    if type(value) is int:
        return value if 0 < abs(value) < 10**9 else None
    return _kind(value)


def _kind(value: object) -> str | None:
    name = _matching(value, _NAME)
    return None if name is None or name.lower() in _SAYS_NOTHING or name.startswith("response.") else name


def _matching(value: object, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _status(value: object) -> int | None:
    number = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{3}", value, re.ASCII) else value
    return number if type(number) is int and 400 <= number < 600 else None


def _of_details(details: list[object], report: ErrorReport) -> ErrorReport:
    """Return what a list of FastAPI's validation errors says: each with its place."""
    found = [_lowered(each) for each in _objects(details)]
    lines = [_sentence(each) for each in details if isinstance(each, str)]
    lines += [": ".join(filter(None, (_place(each.get("loc")), _sentence(each.get("msg"))))) for each in found]
    message = _sentence("; ".join(filter(None, lines[:_MAX_DETAILS]))) or report.message
    param = _matching(_place(found[0].get("loc")), _PLACE) if found else None
    return replace(report, message=message, param=param or report.param)


def _place(location: object) -> str:
    parts = [str(part) for part in location] if isinstance(location, list) else []
    return ".".join(parts[1:] if parts[:1] == ["body"] else parts)


def _objects(value: object) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _leaves(each)
    else:
        yield str(value)
