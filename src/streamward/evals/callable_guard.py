"""Guards that are Python functions: one of the user's, or one of the `any-guardrail` collection."""

import hashlib
import importlib
import inspect
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamward.errors import ConfigError, UpstreamError
from streamward.evals.guards import labelled
from streamward.evals.predictions import LabelledRow, Prediction
from streamward.policy import Policy
from streamward.reasons import reason_of
from streamward.schema import Category, RiskLevel, Side

_BATCH_ROWS = 32  # few, so that little is lost when the run is stopped
_THRESHOLD = 0.5
_KEYS = frozenset({"risk_level", "probability", "category", "refusal"})

logger = logging.getLogger(__name__)
Answer = bool | float | str | Mapping[str, Any]  # Any: values by key
Judge = Callable[[str | None, str | None], Answer]
"""Takes the prompt and the response (None where there is none; the response is judged if there is one)."""


class CallableGuard:
    """A function under test.

    It may return whether the text is unsafe, P(Unsafe), the name of a level, or a mapping with `risk_level` or
    `probability`, and `category` and `refusal` if it likes. A call that raises or returns anything else is a row with
    an error.
    """

    batch_rows = _BATCH_ROWS

    def __init__(self, name: str, judge: Judge, *, policy: Policy, kind: str = "callable", source: str = "") -> None:
        """Put a function under test.

        Args:
            name: In tables.
            judge: Called once a row, one after the other.
            policy: Policy of the run.
            kind: In the report.
            source: Its code or version: predictions are kept as long as it stays the same.
        """
        self.name = name
        self._judge = judge
        self._policy = policy
        self._kind = kind
        self._source = source

    def describe(self) -> Mapping[str, Any]:  # Any: JSON values
        """Return name, kind and the hash of the code."""
        return {
            "name": self.name,
            "kind": self._kind,
            "policy": self._policy.model_dump(mode="json"),
            "settings": {"source_sha256": hashlib.sha256(self._source.encode()).hexdigest()},
        }

    def judge(self, rows: Sequence[LabelledRow], *, keeps_tokens: bool) -> list[Prediction]:
        """Call the function for each row."""
        return [self._judge_row(row) for row in rows]

    def close(self) -> None:
        """Nothing is held."""

    def _judge_row(self, row: LabelledRow) -> Prediction:
        prompt, response = (row.text, None) if row.side is Side.PROMPT else (row.prompt, row.text)
        start = time.perf_counter()
        try:
            facts = read_answer(self._judge(prompt, response))
        except Exception as error:  # any exception of the function makes a row without a judgement
            logger.warning("guard function failed", extra={"error": type(error).__name__})
            elapsed_ms = (time.perf_counter() - start) * 1e3
            return Prediction(row.id, error=UpstreamError.code, cost_ms=elapsed_ms)
        elapsed_ms = (time.perf_counter() - start) * 1e3
        level = facts.pop("risk_level")
        return labelled(row, level, policy=self._policy, **facts, latency_ms=elapsed_ms, cost_ms=elapsed_ms)


def read_answer(answer: Answer) -> dict[str, Any]:  # Any: fields of a prediction
    """Return the fields of a prediction that a function's answer stands for.

    Raises:
        ValueError: The answer is none of the kinds known.
    """
    if isinstance(answer, bool):
        return {"risk_level": RiskLevel.UNSAFE if answer else RiskLevel.SAFE}
    if isinstance(answer, int | float):
        return _scored(float(answer))
    if isinstance(answer, str):
        return {"risk_level": RiskLevel(answer)}
    if not isinstance(answer, Mapping) or not answer.keys() <= _KEYS:
        raise ValueError("the answer is of no known kind")
    facts = _scored(float(answer["probability"])) if "probability" in answer else {}
    if "risk_level" in answer:
        facts["risk_level"] = RiskLevel(answer["risk_level"])
    if "risk_level" not in facts:
        raise ValueError("the answer has neither risk_level nor probability")
    category = answer.get("category")
    return {**facts, "category": None if category is None else Category(category), "refusal": answer.get("refusal")}


def _scored(probability: float) -> dict[str, Any]:  # Any: fields of a prediction
    if not 0 <= probability <= 1:
        raise ValueError("a probability is between 0 and 1")
    return {
        "risk_level": RiskLevel.UNSAFE if probability >= _THRESHOLD else RiskLevel.SAFE,
        "probabilities": {
            RiskLevel.SAFE: 1 - probability,
            RiskLevel.CONTROVERSIAL: 0.0,
            RiskLevel.UNSAFE: probability,
        },
    }


def load_callable(name: str, *, policy: Policy) -> CallableGuard:
    """Import `module:function`; modules in the current folder are found too.

    Raises:
        ConfigError: There is no such module or function.
    """
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        missing = getattr(error, "name", None) or module_name
        raise ConfigError(f"{module_name!r} cannot be imported: there is no module {missing!r} here") from error
    judge = getattr(module, attribute, None)
    if not callable(judge):
        raise ConfigError(f"{module_name!r} has no function {attribute!r}")
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):  # a compiled function has no source
        source = str(getattr(module, "__version__", module_name))
    return CallableGuard(name, judge, policy=policy, source=source)


def load_any_guardrail(name: str, *, policy: Policy) -> CallableGuard:
    """Open a guard of the `any-guardrail` collection; it judges single texts, without their context.

    Raises:
        ConfigError: The package is not installed, or knows no such guard.
    """
    try:
        library = importlib.import_module("any_guardrail")
    except ModuleNotFoundError as error:
        raise ConfigError("this guard needs the package any-guardrail; run: pip install any-guardrail") from error
    try:
        guardrail = library.AnyGuardrail.create(library.GuardrailName(name))
    except (ValueError, ImportError) as error:
        raise ConfigError(f"any-guardrail cannot open {name!r}: {reason_of(error)}") from error

    def judge(prompt: str | None, response: str | None) -> bool:
        verdict = guardrail.validate(prompt if response is None else response).valid
        if verdict is None:
            raise ValueError("no verdict")
        return not verdict

    source = f"{name} {getattr(library, '__version__', '')}"
    return CallableGuard(f"any-guardrail:{name}", judge, policy=policy, kind="any-guardrail", source=source)
