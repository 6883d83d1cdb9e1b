"""Pydantic's errors in our words: the key, the allowed values, and the known name nearest to the given one."""

import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from streamward.suggestions import suggest

Location = tuple[int | str, ...]
Problem = Mapping[str, Any]  # Any: an item of pydantic's `errors()`
_MOST_TOLD = 5
_MUST_BE = " must be "
_JSON_PLACE = re.compile(r" at (line \d+) column (\d+)$")
_NAMES_KEY = ("missing", "extra_forbidden")
_KEY = "[key]"  # pydantic marks a wrong key of a mapping with this

_WANTED: Mapping[str, str] = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "path_type": "a path",
    "dict_type": "{table}",
    "mapping_type": "{table}",
    "model_type": "{table}",
    "model_attributes_type": "{table}",
    "dataclass_type": "{table}",
    "datetime_type": "a date, as 2026-01-31 or 2026-01-31T12:00:00Z",
    "datetime_parsing": "a date, as 2026-01-31 or 2026-01-31T12:00:00Z",
    "datetime_from_date_parsing": "a date, as 2026-01-31 or 2026-01-31T12:00:00Z",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "enum": "{expected}",
}
_SENTENCES: Mapping[str, str] = {
    "missing": "is missing",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} items",
}
_TYPE_PROBLEMS = frozenset(name for name in _WANTED if name.endswith("_type"))


class Finding(NamedTuple):
    """One thing that is wrong.

    Attributes:
        path: Where, as `listen.port` or `messages[0].content`; empty for the whole value.
        sentence: What is wrong there.
    """

    path: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


class _Found(NamedTuple):
    """A problem at its place in the value; `union` is the length of the path to a choice of types it is within."""

    path: Location
    union: int | None
    types: Sequence[Any]  # Any: annotations
    problem: Problem


def findings(
    problems: Iterable[Problem],
    root: Any,  # Any: an annotation
    *,
    names_keys: bool = True,
    table: Literal["a table", "an object"] = "a table",
    whole: str = "it",
    most: int | None = _MOST_TOLD,
) -> list[Finding]:
    """Say what pydantic found.

    Args:
        problems: Its `errors()`.
        root: The type that was validated.
        names_keys: Whether unknown keys may be repeated; known ones near to them always are.
        table: What a mapping is called.
        whole: What the value itself is called.
        most: At most so many; None for all.
    """
    placed = [_place(problem, root) for problem in problems]
    found = list(_settled([each for each in placed if not _follows(each, placed)]))
    told: dict[str, list[str]] = {}
    for each in found:
        text = _text(each, root, names_keys=names_keys, table=table)
        is_unnamed = each.problem["type"] == "extra_forbidden" and not names_keys
        told.setdefault(_spelled(each.path[:-1] if is_unnamed else each.path), []).append(text)
    return [Finding(path, _sentence(path or whole, _joined(texts))) for path, texts in told.items()][:most]


def _sentence(where: str, text: str) -> str:
    """Put the place before what is wrong there; our own sentences about a whole value need none."""
    return text.removeprefix(": ") if text.startswith(": ") and where in ("it", "the body") else f"{where}{text}"


def _place(problem: Problem, root: Any) -> _Found:
    """Walk from the root to where the problem is; the names that pydantic gives to types of a choice are left out."""
    path: list[int | str] = []
    options, union = _options(root), None
    if problem["type"] == "json_invalid":
        return _Found((), None, (), problem)
    names = list(problem["loc"])
    last = names.pop() if names and problem["type"] in _NAMES_KEY else None
    for part in names:
        inner = [kind for option in options for kind in _within(option, part)]
        if not inner and len(options) > 1:
            union = len(path)
            options = [option for option in options if _is_called(option, part)] or options
        elif part != _KEY:
            options = inner
            path.append(part)
    if last is not None:
        path.append(last)
    return _Found(tuple(path), union, options, problem)


def _follows(found: _Found, others: Sequence[_Found]) -> bool:
    """Return whether a list is only too short because an item of it is wrong, which is told anyway."""
    size = len(found.path)
    return found.problem["type"] == "too_short" and any(
        len(other.path) > size and other.path[:size] == found.path and other.union is None for other in others
    )


def _settled(found: Sequence[_Found]) -> Iterator[_Found]:
    """Keep, of the errors of every type of a choice, those of the type that fits best: the others were not meant."""
    for each in found:
        if each.union is None:
            yield each
            continue
        rivals = [
            other for other in found if other.path[: each.union] == each.path[: each.union] and other.union is not None
        ]
        deepest = max(len(other.path) for other in rivals)
        fitting = [other for other in rivals if len(other.path) == deepest]
        if any(other.problem["type"] not in _TYPE_PROBLEMS for other in fitting):
            fitting = [other for other in fitting if other.problem["type"] not in _TYPE_PROBLEMS]
        if any(other is each for other in fitting):
            yield each


def _text(found: _Found, root: Any, *, names_keys: bool, table: str) -> str:
    problem = found.problem
    kind, context = problem["type"], {"table": table, **problem.get("ctx", {})}
    if kind == "extra_forbidden":
        return _unknown(found, root, names_keys=names_keys)
    if kind == "json_invalid":
        return f" is not JSON{_json_place(problem)}"
    if kind in ("value_error", "assertion_error"):
        return f": {context['error']}"
    if kind in ("string_too_short", "too_short"):
        return _too_short(context["min_length"], "character" if kind == "string_too_short" else "item")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return f" must have the key {context['discriminator']}, one of {context.get('expected_tags', 'the known')}"
    near = suggest(problem["input"], _names(context["expected"])) if _is_choice(problem) else ""
    if found.problem["loc"][-1:] == (_KEY,):
        allowed = context.get("expected") or f"match the pattern {context.get('pattern')}"
        return f" is no key that is allowed; it must {'be ' if 'expected' in context else ''}{allowed}{near}"
    if kind in _WANTED:
        return f" must be {_WANTED[kind].format_map(context)}{near}"
    return " " + _SENTENCES.get(kind, "is not of the kind expected").format_map(context)


def _json_place(problem: Problem) -> str:
    if problem["loc"]:  # the framework parses with the standard library
        return f" from character {int(problem['loc'][-1]) + 1} on"
    found = _JSON_PLACE.search(problem["ctx"]["error"])
    return f" from {found[1]}, column {found[2]} on" if found else ""


def _unknown(found: _Found, root: Any, *, names_keys: bool) -> str:
    name = str(found.problem["loc"][-1])
    known = [key for option in found.types for key in _keys(option)]
    near = _elsewhere(name, root) or suggest(name, known) or (f"; known are {', '.join(known)}" if known else "")
    return f" is unknown{near}" if names_keys else f" has an unknown key{near}"


def _elsewhere(name: str, root: Any) -> str:
    """Name a key of that name in a table within, as `listen.port` for `port`."""
    for option in _options(root):
        for table in _keys(option):
            if any(name in _keys(inner) for inner in _within(option, table)):
                return f"; did you mean '{table}.{name}'?"
    return ""


def _too_short(least: int, what: str) -> str:
    if what == "character" and least == 1:
        return " must not be empty"
    return f" must have at least {least} {what}{'' if least == 1 else 's'}"


def _joined(texts: Sequence[str]) -> str:
    """Join what types of one choice want: `must be a string or a list`."""
    unique = list(dict.fromkeys(texts))
    if all(text.startswith(_MUST_BE) and ";" not in text for text in unique):
        return _MUST_BE + " or ".join(text.removeprefix(_MUST_BE) for text in unique)
    return unique[0]


def _is_choice(problem: Problem) -> bool:
    return "expected" in problem.get("ctx", {}) and isinstance(problem.get("input"), str)


def _names(expected: str) -> list[str]:
    """Return the names in pydantic's list of them, which is `'a', 'b' or 'c'`."""
    return expected.replace("' or '", "', '").strip("'").split("', '")


def _spelled(path: Location) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text[:200]


def _options(annotation: Any) -> list[Any]:
    """Return the types that a value may be of."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [option for inner in typing.get_args(annotation) for option in _options(inner)]
    return [] if annotation in (None, type(None)) else [annotation]


def _keys(kind: Any) -> list[str]:
    return list(kind.model_fields) if _is_model(kind) else []


def _within(kind: Any, part: int | str) -> list[Any]:
    """Return the types of what is under a key or index."""
    if _is_model(kind):
        field = kind.model_fields.get(part)
        return [] if field is None else _options(field.annotation)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if not isinstance(origin, type) or not inner:
        return []
    is_mapping = issubclass(origin, Mapping)
    if is_mapping == isinstance(part, str) and (is_mapping or issubclass(origin, Sequence)):
        return _options(inner[-1] if is_mapping else inner[0])
    return []


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_called(kind: Any, name: int | str) -> bool:
    """Return whether pydantic calls a type so among others: by its name, or by the tag that tells it apart."""
    if getattr(kind, "__name__", None) == name:
        return True
    return any(
        name in typing.get_args(field.annotation)
        for field in (kind.model_fields.values() if _is_model(kind) else ())
        if typing.get_origin(field.annotation) is Literal
    )
