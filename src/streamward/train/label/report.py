"""Report on a labelling run: labels, ties, failures, and agreement of the judges."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamward.data.jsonl import Sample
from streamward.data.rows import replacing
from streamward.schema import RiskLevel
from streamward.train.label.agreement import fleiss_kappa, pairwise
from streamward.train.label.majority import SideLabel
from streamward.train.label.votes import Vote

_SIDES = ("prompt", "response")
_GIVEN = "given label"


class LabelReport:
    """Counts rows as they are labelled."""

    def __init__(self, judges: tuple[str, ...]) -> None:
        """Begin with no rows."""
        self._judges = judges
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._answers: dict[str, dict[str, list[RiskLevel | None]]] = {
            side: {name: [] for name in (*judges, _GIVEN)} for side in _SIDES
        }
        self._refusals: dict[str, list[bool | None]] = {name: [] for name in judges}
        self._num_rows = 0

    def count(
        self, said: Mapping[str, Vote], labels: Mapping[str, SideLabel], refusal: bool | None, sample: Sample
    ) -> None:
        """Note one row."""
        self._num_rows += 1
        given = {"prompt": sample.prompt_label, "response": sample.response_label}
        texts = {"prompt": sample.prompt, "response": sample.response}
        for side, label in labels.items():
            if not texts[side]:
                continue
            for name, vote in said.items():
                word = getattr(vote, side)
                self._answers[side][name].append(None if word is None else word.level)
            self._answers[side][_GIVEN].append(given[side])
            outcome = label.level.value if label.level is not None else "tie" if label.is_tie else "too few votes"
            self._counts[side][outcome] += 1
            self._counts[side]["ties"] += label.is_tie
        for name, vote in said.items():
            self._refusals[name].append(vote.refusal)
            self._counts["failed"][name] += vote.error is not None
        if sample.response:
            self._counts["refusal"][str(refusal).lower()] += 1

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return all figures."""
        agreement = {side: self._agreement(side) for side in _SIDES if any(self._answers[side].values())}
        refusals = pairwise(self._refusals)
        return {
            "rows": self._num_rows,
            **{name: dict(found) for name, found in self._counts.items()},
            "agreement": {**agreement, **({"refusal": {"pairwise": refusals}} if refusals else {})},
        }

    def text(self) -> str:
        """Return the report as lines."""
        figures = self.as_json()
        lines = [f"{figures['rows']} rows, judges {', '.join(self._judges)}"]
        for name, found in self._counts.items():
            lines.append(f"{name}: " + ", ".join(f"{key} {number}" for key, number in found.items()))
        for side, found in figures["agreement"].items():
            shares = [f"{pair} {share:.3f}" for pair, share in found["pairwise"].items()]
            kappa = found.get("fleiss_kappa")
            if kappa is not None:
                shares.append(f"Fleiss kappa {kappa:.3f} over {found['rows_all_judged']} rows")
            lines.append(f"agreement on the {side}: " + (", ".join(shares) or "one judge only"))
        return "\n".join(lines)

    def write(self, stem: Path) -> None:
        """Write STEM.json and STEM.txt."""
        with replacing(stem.with_name(stem.name + ".json")) as file:
            json.dump(self.as_json(), file, indent=2)
            file.write("\n")
        with replacing(stem.with_name(stem.name + ".txt")) as file:
            file.write(self.text() + "\n")

    def _agreement(self, side: str) -> dict[str, Any]:
        answers = self._answers[side]
        columns = [answers[name] for name in self._judges]
        full = [labels for labels in zip(*columns, strict=True) if None not in labels]
        return {
            "pairwise": pairwise(answers),
            "fleiss_kappa": fleiss_kappa(full),
            "rows_all_judged": len(full),
        }
