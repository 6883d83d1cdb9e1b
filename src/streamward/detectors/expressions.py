"""A policy's own regular expressions, matched in linear time by RE2."""

from collections.abc import Sequence

from streamward.detectors.extras import import_extra
from streamward.detectors.prefixes import PrefixPattern, UnsupportedPatternError, derive
from streamward.detectors.scanning import PatternScanner, TextPattern


def expression_scanner(patterns: Sequence[str], *, max_chars: int, ignores_case: bool) -> PatternScanner:
    """Find what any of several expressions matches; of those that match at one place, the first.

    From the first character that may begin a match, at most `max_chars` characters and one more are held back.

    Args:
        patterns: In the syntax that RE2 and Python's `re` share; no lookarounds, no backreferences.
        max_chars: A match is at most so long; of a longer one the beginning is found, and then what matches behind it.
        ignores_case: Whether letters match in either case.

    Raises:
        ConfigError: The package is not installed.
        ValueError: An expression is malformed, is not supported, or matches the empty text. Says which.
    """
    derived = [_derive(pattern) for pattern in patterns]
    for pattern, each in zip(patterns, derived, strict=True):
        if _compiled(each.pattern, ignores_case=ignores_case).match("") is not None:
            raise ValueError(f"the expression {pattern!r} matches the empty text")
    found = "|".join(f"(?:{each.pattern})" for each in derived)
    open_start = "|".join(f"(?:{each.prefix})" for each in derived)
    return PatternScanner(
        _compiled(found, ignores_case=ignores_case),
        _compiled(f"(?:{open_start})\\z", ignores_case=ignores_case),
        max_chars=max_chars,
    )


def full_matcher(patterns: Sequence[str]) -> TextPattern:
    """Return a pattern whose `match` succeeds on texts that one of the expressions matches as a whole.

    Raises:
        ConfigError: The package is not installed.
        ValueError: An expression is malformed or not supported.
    """
    return _compiled(f"(?:{'|'.join(f'(?:{_derive(each).pattern})' for each in patterns)})\\z", ignores_case=True)


def _derive(pattern: str) -> PrefixPattern:
    try:
        return derive(pattern, for_re2=True)
    except UnsupportedPatternError as error:
        raise ValueError(f"the expression {pattern!r} is not supported: {error}") from error


def _compiled(pattern: str, *, ignores_case: bool) -> TextPattern:
    re2 = import_extra("re2", what="an expression of a detector")
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not ignores_case
    try:
        return re2.compile(pattern, options)  # type: ignore[no-any-return]  # the package has no types
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"RE2 does not support an expression: {reason}") from error
