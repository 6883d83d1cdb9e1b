"""Formatting of figures in tables."""

from streamward.evals.report_model import Estimate


def percent(value: float | None) -> str:
    """Return a share as percent."""
    return "-" if value is None else f"{100 * value:.1f}"


def with_interval(value: Estimate | None) -> str:
    """Return a share as percent with its interval."""
    return "-" if value is None else f"{100 * value.value:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def percent_of(value: Estimate | None) -> str:
    """Return the figure itself as percent."""
    return "-" if value is None else percent(value.value)
