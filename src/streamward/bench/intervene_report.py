"""Report of `streamward bench-intervene`: figures, tables and plots."""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from streamward.bench.intervene import BenchPrompt, ChangedAnswer
from streamward.bench.intervene_config import CHECKED, InterveneBenchConfig
from streamward.bench.intervene_quality import JUDGE, AnswerQuality
from streamward.errors import ConfigError


@dataclass(frozen=True, slots=True)
class VariantFigures:
    """Figures of one variant on one kind of prompt. Shares are from 0 to 1.

    Attributes:
        variant: Its name.
        kind: `risky` or `ordinary`.
        answers: Answers.
        unsafe: Share that the judge calls Unsafe.
        unsafe_or_controversial: Share that it does not call Safe.
        finished: Share that the model ended, or that reached the most tokens allowed.
        refused: Share that declines to help, by the judge, of those about which it says.
        perplexity: Perplexity of the finished answers under the model that gave them, each counted alike.
        changed: Share in which anything was changed.
        wait_tokens_p50: Tokens between two texts that left, per flag; likewise p95.
        dropped_tokens: Mean number of tokens dropped in a changed answer.
        calls: Mean number of upstream calls per answer.
        as_checked: Share of answers that are those of mode `checked`, to the byte; None without that mode.
        as_checked_unflagged: The same, of those that mode `checked` does not stop.
    """

    variant: str
    kind: str
    answers: int
    unsafe: float
    unsafe_or_controversial: float
    finished: float
    refused: float | None
    perplexity: float | None
    changed: float
    wait_tokens_p50: float | None
    wait_tokens_p95: float | None
    dropped_tokens: float | None
    calls: float
    as_checked: float | None
    as_checked_unflagged: float | None


def figures(
    answers: Sequence[ChangedAnswer], prompts: Sequence[BenchPrompt], quality: Mapping[tuple[str, str], AnswerQuality]
) -> list[VariantFigures]:
    """Return the figures of every variant and kind of prompt, in the order in which they were asked."""
    kinds = {prompt.id: prompt.kind for prompt in prompts}
    groups: dict[tuple[str, str], list[ChangedAnswer]] = {}
    for answer in answers:
        if answer.id in kinds:
            groups.setdefault((answer.variant, kinds[answer.id]), []).append(answer)
    checked = {answer.id: answer for answer in answers if answer.variant == CHECKED}
    return [_figures(*key, group, quality, checked) for key, group in groups.items()]


def _figures(
    variant: str,
    kind: str,
    group: Sequence[ChangedAnswer],
    quality: Mapping[tuple[str, str], AnswerQuality],
    checked: Mapping[str, ChangedAnswer],
) -> VariantFigures:
    found = [quality[each.id, each.text] for each in group]
    told = [each.refusal for each in found if each.refusal is not None]
    nlls = [each.nll for each in found if each.nll is not None]
    changed = [each for each in group if each.interventions]
    waits = [int(record["wait_tokens"]) for each in changed for record in each.interventions]
    compared = [(each, checked[each.id]) for each in group if each.id in checked]
    unflagged = [(each, other) for each, other in compared if other.finish_reason != "content_filter"]
    return VariantFigures(
        variant=variant,
        kind=kind,
        answers=len(group),
        unsafe=_share([each.risk_level == "Unsafe" for each in found]),
        unsafe_or_controversial=_share([each.risk_level != "Safe" for each in found]),
        finished=_share([each.finish_reason != "content_filter" for each in group]),
        refused=_share(told) if told else None,
        perplexity=round(math.exp(float(np.mean(nlls))), 2) if nlls else None,
        changed=_share([bool(each.interventions) for each in group]),
        wait_tokens_p50=_percentile(waits, 50),
        wait_tokens_p95=_percentile(waits, 95),
        dropped_tokens=_mean([sum(int(r["dropped_tokens"]) for r in each.interventions) for each in changed]),
        calls=round(float(np.mean([each.num_calls for each in group])), 3),
        as_checked=_share([each.text == other.text for each, other in compared]) if compared else None,
        as_checked_unflagged=_share([each.text == other.text for each, other in unflagged]) if unflagged else None,
    )


def _share(values: Sequence[bool]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.0


def _percentile(values: Sequence[int], percent: int) -> float | None:
    return float(np.percentile(values, percent)) if values else None


def _mean(values: Sequence[int]) -> float | None:
    return round(float(np.mean(values)), 1) if values else None


def report(config: InterveneBenchConfig, found: Sequence[VariantFigures]) -> dict[str, Any]:  # Any: JSON values
    """Return all that is known of a run, as JSON values."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "streamward": version("streamward"),
        "machine": platform.processor() or platform.machine(),
        "judge": JUDGE,
        "config": config.model_dump(mode="json"),
        "figures": [asdict(each) for each in found],
    }


def markdown(found: Sequence[VariantFigures]) -> str:
    """Return one table for each kind of prompt."""
    lines = []
    for kind in ("risky", "ordinary"):
        rows = [each for each in found if each.kind == kind]
        if not rows:
            continue
        lines += [f"## {kind.capitalize()} prompts", ""]
        lines.append(
            "| variant | answers | Unsafe % | not Safe % | finished % | refused % | perplexity | changed % |"
            " wait tokens p50 | p95 | dropped tokens | calls | as checked % |"
        )
        lines.append("| --- |" + " ---: |" * 12)
        lines += [_row(each) for each in rows]
        lines.append("")
    return "\n".join(lines)


def _row(each: VariantFigures) -> str:
    cells = [
        each.variant,
        str(each.answers),
        *map(_percent, (each.unsafe, each.unsafe_or_controversial, each.finished, each.refused)),
        _plain(each.perplexity),
        _percent(each.changed),
        *map(_plain, (each.wait_tokens_p50, each.wait_tokens_p95, each.dropped_tokens, each.calls)),
        _percent(each.as_checked_unflagged),
    ]
    return f"| {' | '.join(cells)} |"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def plot(found: Sequence[VariantFigures], path: Path) -> None:
    """Draw safety and finished answers over the buffer and over the attempts, and safety over wait tokens.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib; install streamward[eval]") from error
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    by_buffer, by_attempts, by_wait = figure.subplots(1, 3)
    risky = [(_parts(each.variant), each) for each in found if each.kind == "risky" and each.variant.count("-")]
    for action in dict.fromkeys(parts[0] for parts, _ in risky):
        own = [(parts, each) for parts, each in risky if parts[0] == action]
        most = max(parts[2] for parts, _ in own)
        middle = 3 if any(parts[2] == 3 for parts, _ in own) else most
        buffers = sorted((parts[1], each) for parts, each in own if parts[2] == middle)
        label = action if middle == 1 else f"{action}, N = {middle}"
        xs = [buffer for buffer, _ in buffers]
        line = by_buffer.plot(xs, [100 * (1 - each.unsafe) for _, each in buffers], marker="o", label=label)
        color = line[0].get_color()
        by_buffer.plot(xs, [100 * each.finished for _, each in buffers], marker="x", linestyle=":", color=color)
        attempts = sorted((parts[2], each) for parts, each in own if parts[1] == 40)
        if len(attempts) > 1:
            numbers = [number for number, _ in attempts]
            values = [100 * (1 - each.unsafe) for _, each in attempts]
            by_attempts.plot(numbers, values, marker="o", color=color, label=f"{action}, b = 40")
            values = [100 * each.finished for _, each in attempts]
            by_attempts.plot(numbers, values, marker="x", linestyle=":", color=color)
        waits = [(each.wait_tokens_p50, each) for _, each in own if each.wait_tokens_p50 is not None]
        by_wait.scatter(
            [wait for wait, _ in waits], [100 * (1 - each.unsafe) for _, each in waits], color=color, label=action
        )
    by_buffer.set(xlabel="b, tokens held", ylabel="% of answers to risky prompts", title="over the buffer")
    by_attempts.set(xlabel="N, attempts", title="over the attempts")
    by_wait.set(xlabel="wait tokens, median per flag", title="safety over the wait")
    for axes in (by_buffer, by_attempts, by_wait):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(title="o not Unsafe, x finished" if axes is not by_wait else None)
    figure.savefig(path, dpi=130)


def _parts(name: str) -> tuple[str, int, int]:
    """Return action, buffer and attempts of a variant's name."""
    action, *rest = name.split("-")
    numbers = {each[0]: int(each[1:]) for each in rest}
    return action, numbers.get("b", 0), numbers.get("n", 1)
