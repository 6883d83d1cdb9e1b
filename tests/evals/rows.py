"""Rows, predictions and guards for tests of the benchmark."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streamward.evals.guards import labelled
from streamward.evals.predictions import Flag, GuardRun, LabelledRow, Prediction, SetResult, TokenRisk
from streamward.evals.runner import run_guard
from streamward.evals.sets import EvalSet
from streamward.policy import STRICT
from streamward.schema import RiskLevel, Side, Span

SAFE, GREY, UNSAFE = RiskLevel.SAFE, RiskLevel.CONTROVERSIAL, RiskLevel.UNSAFE


def row(number: int, label: RiskLevel | None = None, **facts: Any) -> LabelledRow:
    facts = {"side": Side.PROMPT, "text": f"text {number}", **facts}
    return LabelledRow(id=str(number), label=label, **facts)


def said(row_id: int, level: RiskLevel, *, unsafe: float | None = None, **facts: Any) -> Prediction:
    """A prediction of one level, with P(Unsafe) if given."""
    probabilities = None if unsafe is None else {SAFE: 1 - unsafe, GREY: 0.0, UNSAFE: unsafe}
    strict, loose = level is not SAFE, level is UNSAFE
    return Prediction(
        str(row_id), level, probabilities, flagged_strict=strict, flagged_loose=loose, flagged=strict, **facts
    )


def streamed(row_id: int, *, flag: int | None, num_tokens: int = 10, risks: Sequence[float] = ()) -> Prediction:
    """A response of tokens of two characters, stopped at one of them."""
    risks = risks or [0.0] * num_tokens
    tokens = tuple(TokenRisk(2 * index, 2 * index + 2, risk, 0.0) for index, risk in enumerate(risks))
    at = None if flag is None else Flag(flag, 2 * flag + 2)
    level = SAFE if flag is None else UNSAFE
    return said(row_id, level, unsafe=max(risks), flag=at, tokens=tokens, switches=0 if flag is None else 1)


def response(number: int, label: RiskLevel | None, *, spans: Sequence[tuple[int, int]] | None = None) -> LabelledRow:
    """A response of twenty characters."""
    marked = None if spans is None else tuple(Span(*span) for span in spans)
    return row(number, label, side=Side.RESPONSE, text="x" * 20, spans=marked)


class FakeGuard:
    """Judges each row by a function, and counts what it was asked."""

    def __init__(self, judge: Callable[[LabelledRow], Prediction], *, name: str = "fake", batch_rows: int = 4) -> None:
        self._judge = judge
        self.name = name
        self.batch_rows = batch_rows
        self.asked: list[str] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "kind": "fake", "policy": STRICT.model_dump(mode="json"), "settings": {}}

    def judge(self, rows: Sequence[LabelledRow], *, keeps_tokens: bool) -> list[Prediction]:
        assert all(each.label is None and each.spans is None for each in rows), "a guard never sees labels"
        self.asked += [each.text for each in rows]
        return [self._judge(each) for each in rows]

    def close(self) -> None:
        pass


def always(level: RiskLevel) -> FakeGuard:
    """A guard that says the same of everything; responses are stopped at the second token, or never."""

    def judge(each: LabelledRow) -> Prediction:
        if each.side is Side.PROMPT:
            return labelled(each, level, policy=STRICT)
        risk = float(level is UNSAFE)
        return streamed(0, flag=1 if level is UNSAFE else None, risks=[risk] * (len(each.text) // 2))

    return FakeGuard(judge, name=f"always {level}")


def run_on(sets: Sequence[EvalSet], guard: FakeGuard, folder: Path) -> GuardRun:
    return run_guard(guard, sets, cache=folder, command="streamward evaluate bench", suite="all")


def result(rows: Sequence[LabelledRow], predictions: Sequence[Prediction], **facts: Any) -> SetResult:
    side = rows[0].side
    return SetResult("own", side, tuple(rows), tuple(predictions), **facts)
