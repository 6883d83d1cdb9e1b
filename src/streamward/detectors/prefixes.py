"""From a regular expression to one that matches every beginning of what it matches.

A stream must know from which character on the text may still become a match. For a pattern R this module derives a
pattern P(R) that matches every prefix of every string that R matches, with the rules

    P(c) = c?        P(AB) = P(A) | A P(B)        P(A|B) = P(A) | P(B)        P(A{m,n}) = A{0,n-1} P(A)

so that the leftmost match of P(R) that reaches the end of the text is the earliest start which is still open. Where the
text ends within what a lookahead or a word boundary inspects, the start is open too. P(R) may match more than prefixes
(lower bounds of repetitions are dropped), never less.
"""

import re
import warnings
from collections.abc import Callable, Iterable
from re import _constants as ops  # the parser of `re`; private, the same in 3.11 to 3.14
from re import _parser as parser
from typing import Any, NamedTuple

Node = tuple[Any, Any]  # Any: operator and argument of the standard library's syntax tree

_CATEGORIES = {
    ops.CATEGORY_DIGIT: r"\d",
    ops.CATEGORY_NOT_DIGIT: r"\D",
    ops.CATEGORY_SPACE: r"\s",
    ops.CATEGORY_NOT_SPACE: r"\S",
    ops.CATEGORY_WORD: r"\w",
    ops.CATEGORY_NOT_WORD: r"\W",
}
_REPEATS = {ops.MAX_REPEAT: "", ops.MIN_REPEAT: "?"}
_SINGLE = (ops.LITERAL, ops.NOT_LITERAL, ops.ANY, ops.IN)
_FLAGS = ((re.IGNORECASE, "i"), (re.MULTILINE, "m"), (re.DOTALL, "s"))


class PrefixPattern(NamedTuple):
    """A pattern and the one derived from it.

    Attributes:
        pattern: The pattern, written out without groups that capture.
        prefix: Matches every prefix of what `pattern` matches, the empty one and the whole included.
        max_chars: Characters that a match, and what it inspects behind itself, has at most; None if unbounded.
    """

    pattern: str
    prefix: str
    max_chars: int | None


class UnsupportedPatternError(ValueError):
    """A pattern uses what has no prefix pattern: backreferences, conditions, atomic groups."""


def derive(pattern: str, *, for_re2: bool = False) -> PrefixPattern:
    """Derive the pattern of the prefixes.

    Args:
        pattern: In the syntax of `re`, without backreferences, conditions, atomic groups and possessive repetitions.
        for_re2: Whether the two are written for RE2 instead of `re`.

    Raises:
        UnsupportedPatternError: The pattern is malformed or uses one of these.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = parser.parse(pattern)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise UnsupportedPatternError(str(error)) from error
    writer = _Writer(_re2_char if for_re2 else _re_char, end_of_text=r"\z" if for_re2 else r"\Z")
    flags = "".join(letter for flag, letter in _FLAGS if tree.state.flags & flag)
    before = f"(?{flags})" if flags else ""
    nodes = list(tree)
    highest = tree.getwidth()[1]
    is_bounded = highest < int(ops.MAXREPEAT) and highest < 2**31
    return PrefixPattern(
        before + writer.all(nodes),
        before + writer.prefix(nodes),
        highest + _lookahead(nodes) if is_bounded else None,
    )


def _re_char(code: int) -> str:
    return chr(code) if chr(code).isalnum() and code < 128 else f"\\U{code:08x}"


def _re2_char(code: int) -> str:
    return chr(code) if chr(code).isalnum() and code < 128 else f"\\x{{{code:x}}}"


class _Writer:
    """Writes syntax trees out again, and their prefixes."""

    def __init__(self, char: Callable[[int], str], *, end_of_text: str) -> None:
        self._char = char
        self._places = {
            ops.AT_BEGINNING: "^",
            ops.AT_BEGINNING_STRING: r"\A",
            ops.AT_BOUNDARY: r"\b",
            ops.AT_NON_BOUNDARY: r"\B",
            ops.AT_END: "$",
            ops.AT_END_STRING: end_of_text,
        }

    def all(self, nodes: Iterable[Node]) -> str:
        return "".join(self._one(node) for node in nodes)

    def _one(self, node: Node) -> str:
        op, value = node
        if op is ops.LITERAL:
            return self._char(value)
        if op is ops.NOT_LITERAL:
            return f"[^{self._char(value)}]"
        if op is ops.ANY:
            return "."
        if op is ops.IN:
            return self._class(value)
        if op is ops.AT:
            return self._places[value]
        if op is ops.BRANCH:
            return f"(?:{'|'.join(self.all(each) for each in value[1])})"
        if op is ops.SUBPATTERN:
            return f"{_opening(value)}{self.all(value[3])})"
        if op in _REPEATS:
            low, high, inner = value
            return f"(?:{self.all(inner)}){_times(low, high)}{_REPEATS[op]}"
        if op in (ops.ASSERT, ops.ASSERT_NOT):
            direction, inner = value
            behind = "<" if direction < 0 else ""
            return f"(?{behind}{'=' if op is ops.ASSERT else '!'}{self.all(inner)})"
        raise UnsupportedPatternError(f"{str(op).lower().replace('_', ' ')} is not supported in a stream")

    def _class(self, items: Iterable[Node]) -> str:
        parts = []
        for op, value in items:
            if op is ops.NEGATE:
                parts.append("^")
            elif op is ops.LITERAL:
                parts.append(self._char(value))
            elif op is ops.RANGE:
                parts.append(f"{self._char(value[0])}-{self._char(value[1])}")
            else:
                parts.append(_CATEGORIES[value])
        return f"[{''.join(parts)}]"

    def prefix(self, nodes: list[Node]) -> str:
        if not nodes:
            return ""
        (op, value), rest = nodes[0], nodes[1:]
        if op in _SINGLE:
            return f"(?:{self._one(nodes[0])}{self.prefix(rest)})?"
        if op is ops.AT:
            return f"(?:{self._one(nodes[0])}{self.prefix(rest)}|)"
        if op in (ops.ASSERT, ops.ASSERT_NOT):
            direction, inner = value
            after = self._one(nodes[0]) + self.prefix(rest)
            return after if direction < 0 else f"(?:{self.prefix(list(inner))}|{after})"
        inside = self._prefix_of_one(op, value)
        return inside if not rest else f"(?:{inside}|{self._one(nodes[0])}{self.prefix(rest)})"

    def _prefix_of_one(self, op: Any, value: Any) -> str:  # Any: as in a node
        if op is ops.BRANCH:
            return f"(?:{'|'.join(self.prefix(list(each)) for each in value[1])})"
        if op is ops.SUBPATTERN:
            return f"{_opening(value)}{self.prefix(list(value[3]))})"
        if op not in _REPEATS:
            return self._one((op, value))  # this raises
        _, high, inner = value
        nodes = list(inner)
        if high is ops.MAXREPEAT:
            return f"(?:(?:{self.all(nodes)})*{self.prefix(nodes)})"
        return f"(?:(?:{self.all(nodes)}){_times(0, high - 1)}{self.prefix(nodes)})" if high else ""


def _opening(value: Any) -> str:  # Any: argument of a group
    _, added, removed, _ = value
    on = "".join(letter for flag, letter in _FLAGS if added & flag)
    off = "".join(letter for flag, letter in _FLAGS if removed & flag)
    return f"(?{on}{'-' + off if off else ''}:"


def _times(low: int, high: Any) -> str:  # Any: a number or MAXREPEAT
    if high is ops.MAXREPEAT:
        return "*" if low == 0 else "+" if low == 1 else f"{{{low},}}"
    return f"{{{low},{high}}}"


def _lookahead(nodes: Iterable[Node]) -> int:
    """Return how many characters behind a match its lookaheads and boundaries inspect at most."""
    most = 0
    for op, value in nodes:
        if op in (ops.ASSERT, ops.ASSERT_NOT) and value[0] > 0:
            most = max(most, value[1].getwidth()[1])
        elif op is ops.AT:
            most = max(most, 1)
        elif op is ops.BRANCH:
            most = max([most, *(_lookahead(each) for each in value[1])])
        elif op is ops.SUBPATTERN:
            most = max(most, _lookahead(value[3]))
        elif op in _REPEATS:
            most = max(most, _lookahead(value[2]))
    return most
