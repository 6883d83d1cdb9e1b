"""Ordinary traffic in twelve languages, which rules must not fire at; read once per guard, then cached."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamward.bundled.base import cache_folder
from streamward.evals.packaged_sets import packaged_set
from streamward.moderation.stream_guard import StreamGuard
from streamward.rules.features import NUM_POOLS, PooledText, Standard, first_row, inputs, pool
from streamward.rules.fit import OrdinaryRows
from streamward.rules.ordinary_scores import OrdinaryInputs
from streamward.rules.rule import RuleExample
from streamward.schema import Side
from streamward.teach.arrays import save_arrays
from streamward.teach.hidden_states import ReadText, read_told

_VERSION = 4  # raise it when the content of cached files changes
_MAX_CHARS = 600  # of a response; the calibration needs many texts more than long ones
_STRIDE = 4  # of the rows of a response that are kept
_FOR_STANDARD = 120  # texts of a side that means and deviations are measured on


@dataclass(frozen=True)
class OrdinaryTraffic:
    """Texts that no rule is about.

    Attributes:
        standards: Means and deviations of hidden states, by side.
        for_teaching: Texts that the gate of a rule is taught against: pooled rows of each, the closing one of prompts,
            every fourth of responses.
        for_calibration: Texts that thresholds are set on; none that is taught against.
    """

    standards: dict[Side, Standard]
    for_teaching: tuple[PooledText, ...]
    for_calibration: tuple[PooledText, ...]
    _kept: dict[frozenset[Side], tuple[OrdinaryRows, OrdinaryInputs]] = field(default_factory=dict, repr=False)

    def gate_rows(self, sides: frozenset[Side]) -> OrdinaryRows:
        """Return what the gate reads of up to three rows of each text that is taught against."""
        return self._by_sides(sides)[0]

    def calibration_inputs(self, sides: frozenset[Side]) -> OrdinaryInputs:
        """Return what both heads read of the texts that thresholds are set on."""
        return self._by_sides(sides)[1]

    def _by_sides(self, sides: frozenset[Side]) -> tuple[OrdinaryRows, OrdinaryInputs]:
        if sides not in self._kept:  # the same for all rules of these sides
            calibration = [text for text in self.for_calibration if text.side in sides]
            self._kept[sides] = self._gate_rows(sides), OrdinaryInputs.of(calibration)
        return self._kept[sides]

    def _gate_rows(self, sides: frozenset[Side]) -> OrdinaryRows:
        rows = []
        for text in self.for_teaching:
            if text.side in sides:
                last = len(text.rows) - 1
                rows += [text.rows[index] for index in sorted({last // 3, 2 * last // 3, last})]
        return OrdinaryRows(inputs(np.stack(rows), is_gate=True))


def ordinary_examples() -> tuple[list[RuleExample], list[RuleExample]]:
    """Return texts to teach against and texts to set thresholds on.

    The first are half of the packaged set `cues` and a quarter of `everyday`, the second another quarter of
    `everyday`. The other half of `everyday` stays for measurements.
    """
    cues, everyday = _examples("cues")[::2], _examples("everyday")[::2]
    return cues + everyday[::2], everyday[1::2]


def _examples(name: str) -> list[RuleExample]:
    found = []
    for part in packaged_set(name):
        for row in part.rows:
            if part.side is Side.PROMPT:
                found.append(RuleExample(prompt=row.text))
            else:
                found.append(RuleExample(prompt=row.prompt, response=row.text[:_MAX_CHARS]))
    return found


def ordinary_traffic(
    guard: StreamGuard, *, fingerprint: str, tell: Callable[[str], None] = lambda text: None
) -> OrdinaryTraffic:
    """Return ordinary traffic as a guard sees it, from the cache if it was read before.

    Args:
        guard: Its engine must have nothing else to do.
        fingerprint: The fingerprint of its weights; what others saw is not taken.
        tell: Told about progress.
    """
    path = cache_folder() / f"ordinary-{fingerprint}-{_VERSION}.npz"
    found = _load(path)
    if found is None:
        found = _read(guard, tell)
        _save(found, path)
    return found


def _read(guard: StreamGuard, tell: Callable[[str], None]) -> OrdinaryTraffic:
    teaching, calibration = ordinary_examples()
    texts = list(read_told(guard, [*calibration, *teaching], tell, name="ordinary traffic"))
    standards = {side: _standard(text for text in texts if text.side is side) for side in Side}
    pooled = tuple(_thinned(text, standards[text.side]) for text in texts)
    return OrdinaryTraffic(standards, pooled[len(calibration) :], pooled[: len(calibration)])


def _standard(texts: Iterator[ReadText]) -> Standard:
    chosen = [text.states for text in texts][:_FOR_STANDARD]
    return Standard.of(np.concatenate(chosen))


def _thinned(text: ReadText, standard: Standard) -> PooledText:
    first, last = first_row(text.side, len(text.states)), len(text.states) - 1
    kept = sorted({*range(first, last, _STRIDE), last})
    return PooledText(text.side, pool(text.states, standard, text.side, kept=kept).astype(np.float16))


def _save(traffic: OrdinaryTraffic, path: Path) -> None:
    texts = traffic.for_teaching + traffic.for_calibration
    arrays = {
        "num_teaching": np.array(len(traffic.for_teaching)),
        "lengths": np.array([len(text.rows) for text in texts]),
        "sides": np.array([text.side.value for text in texts]),
        "rows": np.concatenate([text.rows for text in texts]),
    }
    for side, standard in traffic.standards.items():
        arrays[f"{side}.mean"], arrays[f"{side}.deviation"] = standard.mean, standard.deviation
    save_arrays(path, arrays, what="ordinary traffic")


def _load(path: Path) -> OrdinaryTraffic | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            rows, lengths, sides = file["rows"], file["lengths"], file["sides"]
            num_teaching = int(file["num_teaching"])
            standards = {side: Standard(file[f"{side}.mean"], file[f"{side}.deviation"]) for side in Side}
    except (OSError, ValueError, KeyError, EOFError):
        return None  # not there yet, or broken: it is read again
    if rows.ndim != 4 or rows.shape[1] != NUM_POOLS or lengths.sum() != len(rows):
        return None
    texts = tuple(_split(rows, lengths, sides))
    return OrdinaryTraffic(standards, texts[:num_teaching], texts[num_teaching:])


def _split(rows: NDArray[np.float16], lengths: NDArray[np.int64], sides: NDArray[np.str_]) -> Iterator[PooledText]:
    start = 0
    for length, side in zip(lengths, sides, strict=True):
        yield PooledText(Side(str(side)), rows[start : start + int(length)])
        start += int(length)
