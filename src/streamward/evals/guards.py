"""Guards under test: one question for all of them, and our own guards as an answer to it."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from streamward.decisions import SideState, decide
from streamward.errors import StreamwardError
from streamward.evals.predictions import Flag, LabelledRow, Prediction, TokenRisk
from streamward.loading import find_served, load_guard
from streamward.model.config_file import read_config
from streamward.model.guard_config import is_stream_checkpoint
from streamward.moderation.moderator import Moderator
from streamward.policy import LOOSE, STRICT, Policy
from streamward.schema import Action, Category, Result, RiskLevel, Side, SideResult, Verdict
from streamward.tokenizer import GuardTokenizer, clean_text

_HASHED = ("*.safetensors", "config.json", "tokenizer.json", "*.jinja", "tokenizer_config.json")
_CONCURRENT = 32  # conversations in one forward pass; more gains little on a CPU
_ROUND = 4


class GuardUnderTest(Protocol):
    """Something that judges texts. It is shown texts, never labels of people."""

    @property
    def name(self) -> str:
        """Name in tables."""
        ...

    @property
    def batch_rows(self) -> int:
        """Rows it wants at a time."""
        ...

    def describe(self) -> Mapping[str, Any]:  # Any: JSON values
        """Return `name`, `kind`, `policy`, `settings` and what else identifies it; the same guard, the same values."""
        ...

    def judge(self, rows: Sequence[LabelledRow], *, keeps_tokens: bool) -> list[Prediction]:
        """Judge some rows.

        Args:
            rows: Rows of one side of one set.
            keeps_tokens: Whether the tokens of responses are wanted, where the guard judges tokens.

        Returns:
            One prediction per row, in the same order; with an error where the row could not be judged.
        """
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def identity_of(guard: GuardUnderTest) -> str:
    """Return the hash under which a guard's predictions are kept."""
    return hashlib.sha256(json.dumps(guard.describe(), sort_keys=True).encode()).hexdigest()


def labelled(row: LabelledRow, level: RiskLevel, *, policy: Policy, **facts: Any) -> Prediction:  # Any: its fields
    """Return the prediction of a guard that gives one level for a whole text.

    Args:
        row: What was judged.
        level: What the guard said.
        policy: Policy of the run.
        facts: Further fields of the prediction, such as `probabilities`, `category` and `latency_ms`.
    """
    probabilities: Mapping[RiskLevel, float] = facts.get("probabilities") or {
        each: float(each is level) for each in RiskLevel
    }
    verdict = Verdict(0, level, probabilities, facts.get("category"))
    flagged = (decide(each, row.side, verdict).action is not Action.ALLOW for each in (STRICT, LOOSE, policy))
    strict, loose, own = flagged
    return Prediction(row.id, level, flagged_strict=strict, flagged_loose=loose, flagged=own, **facts)


class StreamwardGuard:
    """A guard that `streamward.load` can load: embedded, a folder, or from a hub."""

    batch_rows = 4 * _CONCURRENT  # the last rows of a batch have the machine to themselves

    def __init__(self, name: str, *, policy: Policy) -> None:
        """Load it.

        Raises:
            CheckpointError: There is no such guard, or its files are damaged.
            ConfigError: A package that fetches it is not installed.
        """
        folder = find_served(name)
        self.name = name
        self._policy = policy
        self._weights = _folder_hash(folder)
        self._kind = "stream" if is_stream_checkpoint(read_config(folder)) else "gen"
        self._tokenizer = GuardTokenizer.from_folder(folder)
        # Under the strict policy, which has no thresholds of its own: levels are those of the shipped operating point.
        self._moderator = Moderator(load_guard(folder), policy=STRICT, max_workers=_CONCURRENT)

    def describe(self) -> Mapping[str, Any]:  # Any: JSON values
        """Return what identifies the guard."""
        return {
            "name": self.name,
            "kind": self._kind,
            "weights_sha256": self._weights,
            "policy": self._policy.model_dump(mode="json"),
            "settings": {"streamward": version("streamward")},
        }

    def judge(self, rows: Sequence[LabelledRow], *, keeps_tokens: bool) -> list[Prediction]:
        """Judge rows together; if one cannot be, each by itself."""
        items = [_item(row) for row in rows]
        start = time.perf_counter()
        answers: list[Result | StreamwardError]
        try:
            answers = list(self._moderator.moderate_batch(items))
        except StreamwardError:
            answers = [self._judge_alone(item) for item in items]
        elapsed_ms = (time.perf_counter() - start) * 1e3
        counts = [
            0 if isinstance(answer, StreamwardError) else len(self._tokenizer.encode(clean_text(row.text)).ids)
            for row, answer in zip(rows, answers, strict=True)
        ]
        total = sum(counts) + len(rows)
        return [
            self._prediction(
                row,
                answer,
                keeps_tokens=keeps_tokens,
                facts={
                    "latency_ms": elapsed_ms,
                    "cost_ms": elapsed_ms * (num_tokens + 1) / total,
                    "num_tokens": num_tokens,
                },
            )
            for row, answer, num_tokens in zip(rows, answers, counts, strict=True)
        ]

    def close(self) -> None:
        """Free the model."""
        self._moderator.close()

    def _judge_alone(self, item: Mapping[str, object]) -> Result | StreamwardError:
        try:
            return self._moderator.moderate(**item)  # type: ignore[arg-type]  # made by _item
        except StreamwardError as error:
            return error

    def _prediction(
        self, row: LabelledRow, answer: Result | StreamwardError, *, keeps_tokens: bool, facts: Mapping[str, Any]
    ) -> Prediction:
        if isinstance(answer, StreamwardError):
            return Prediction(row.id, error=answer.code, **facts)
        judgement = answer.prompt if row.side is Side.PROMPT else answer.response
        if judgement is None:
            return Prediction(row.id, error=answer.decision.error or StreamwardError.code, **facts)
        category, refusal = judgement.category, judgement.refusal
        if not judgement.verdicts and self._kind == "gen":
            whole = {**facts, "category": category, "refusal": refusal, "probabilities": judgement.probabilities}
            return labelled(row, judgement.risk_level, policy=self._policy, **whole)
        return _streamed(row, judgement, policy=self._policy, keeps_tokens=keeps_tokens, facts=facts)


def _streamed(
    row: LabelledRow, judgement: SideResult, *, policy: Policy, keeps_tokens: bool, facts: Mapping[str, Any]
) -> Prediction:
    verdicts, side = judgement.verdicts, row.side
    strict, loose, own = (_replay(each, side, verdicts) for each in (STRICT, LOOSE, policy))
    run = STRICT.consecutive_tokens(side)
    flag = None
    if side is Side.RESPONSE and strict.first_flagged_position is not None:
        span = verdicts[strict.first_flagged_position].span
        flag = Flag(strict.first_flagged_position, 0 if span is None else span.end)
    category: Category | None = judgement.category
    return Prediction(
        row.id,
        judgement.risk_level,
        held_probabilities(verdicts, run=run) or judgement.probabilities,
        category=category,
        refusal=judgement.refusal,
        flagged_strict=strict.decision.action is not Action.ALLOW,
        flagged_loose=loose.decision.action is not Action.ALLOW,
        flagged=own.decision.action is not Action.ALLOW,
        flag=flag,
        switches=_switches(verdicts) if side is Side.RESPONSE else None,
        tokens=_tokens(verdicts) if keeps_tokens and side is Side.RESPONSE else None,
        **facts,
    )


def held_probabilities(verdicts: Sequence[Verdict], *, run: int) -> dict[RiskLevel, float]:
    """Return the risk of a whole streamed text: the highest that so many successive tokens all reach.

    A text is flagged at a threshold exactly if this reaches it, so that curves over thresholds are those of the
    debounced guard; empty if there are no verdicts.
    """
    if not verdicts:
        return {}
    run = min(run, len(verdicts))
    unsafe = [verdict.probabilities[RiskLevel.UNSAFE] for verdict in verdicts]
    risky = [
        level + verdict.probabilities[RiskLevel.CONTROVERSIAL] for level, verdict in zip(unsafe, verdicts, strict=True)
    ]
    held_unsafe, held_risky = (_held(values, run) for values in (unsafe, risky))
    return {
        RiskLevel.SAFE: max(0.0, 1.0 - held_risky),
        RiskLevel.CONTROVERSIAL: max(0.0, held_risky - held_unsafe),
        RiskLevel.UNSAFE: held_unsafe,
    }


def _held(values: Sequence[float], run: int) -> float:
    lowest = list(values)
    for _ in range(run - 1):
        lowest = [min(pair) for pair in pairwise(lowest)]
    return max(lowest)


def _replay(policy: Policy, side: Side, verdicts: Sequence[Verdict]) -> SideState:
    state = SideState(policy, side)
    for verdict in verdicts:
        state.observe(verdict)
    state.finish()
    return state


def _switches(verdicts: Sequence[Verdict]) -> int:
    risky = [verdict.risk_level is not RiskLevel.SAFE for verdict in verdicts]
    return sum(before != after for before, after in pairwise([False, *risky]))


def _tokens(verdicts: Sequence[Verdict]) -> tuple[TokenRisk, ...]:
    tokens, end = [], 0
    for verdict in verdicts:
        start, end = verdict.span or (end, end)
        unsafe = round(verdict.probabilities[RiskLevel.UNSAFE], _ROUND)
        tokens.append(TokenRisk(start, end, unsafe, round(verdict.probabilities[RiskLevel.CONTROVERSIAL], _ROUND)))
    return tuple(tokens)


def _item(row: LabelledRow) -> dict[str, object]:
    if row.side is Side.PROMPT:
        return {"prompt": row.text}
    return {"response": row.text} if row.prompt is None else {"prompt": row.prompt, "response": row.text}


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _HASHED for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
