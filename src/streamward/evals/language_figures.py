"""Accuracy of a guard by language and side, and the languages where it is worst."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from streamward.evals.report_model import Estimate, LanguageFigures, WorstLanguage
from streamward.evals.whole_text import Pair, judged, set_ranking
from streamward.schema import Side

MIN_ROWS = 20
"""A language with fewer rows behind a figure is in the table, and is not named the worst."""
Figure = Literal["recall", "false_positive_rate", "auroc"]
FIGURES: tuple[Figure, ...] = ("recall", "false_positive_rate", "auroc")


def language_figures(pairs: Mapping[Side, Sequence[Pair]]) -> tuple[LanguageFigures, ...]:
    """Return the figures of every language with labelled rows, by side."""
    return tuple(figures for side, found in pairs.items() for figures in _of_side(side, found))


def _of_side(side: Side, pairs: Sequence[Pair]) -> Iterator[LanguageFigures]:
    languages: dict[str, list[Pair]] = {}
    for pair in pairs:
        languages.setdefault(pair[0].language, []).append(pair)
    for language in sorted(languages):
        rows = judged(languages[language])
        if not rows.clear:
            continue
        strict, ranking = rows.point("strict"), set_ranking(rows)
        yield LanguageFigures(
            side=side,
            language=language,
            unsafe_rows=sum(rows.unsafe),
            safe_rows=len(rows.clear) - sum(rows.unsafe),
            recall=strict.recall,
            false_positive_rate=strict.false_positive_rate,
            auroc=None if ranking is None else ranking.auroc,
        )


def worst_languages(found: Sequence[LanguageFigures]) -> tuple[WorstLanguage, ...]:
    """Return the worst language by each figure and side, where at least two can be compared and differ."""
    return tuple(
        worst
        for side in Side
        for figure in FIGURES
        if (worst := _worst([each for each in found if each.side is side], figure)) is not None
    )


def _worst(found: Sequence[LanguageFigures], figure: Figure) -> WorstLanguage | None:
    values: list[tuple[Estimate, int, LanguageFigures]] = []
    for each in found:
        value, rows = getattr(each, figure), rows_behind(each, figure)
        if value is not None and rows >= MIN_ROWS:
            values.append((value, rows, each))
    if len({value.value for value, _, _ in values}) < 2:
        return None
    pick = max if figure == "false_positive_rate" else min
    worst = pick(value.value for value, _, _ in values)
    (value, rows, each), *tied = sorted(
        (item for item in values if item[0].value == worst), key=lambda item: (-item[1], item[2].language)
    )
    return WorstLanguage(
        side=each.side,
        figure=figure,
        language=each.language,
        value=value,
        rows=rows,
        languages=len(values),
        tied=tuple(other.language for _, _, other in tied),
    )


def rows_behind(each: LanguageFigures, figure: Figure) -> int:
    """Return how many rows a figure rests on; of an area, those of the rarer label."""
    if figure == "auroc":
        return min(each.unsafe_rows, each.safe_rows)
    return each.unsafe_rows if figure == "recall" else each.safe_rows
