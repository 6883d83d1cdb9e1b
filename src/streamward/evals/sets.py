"""Labelled rows of benchmark sets, from a data folder."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from streamward.data.held_out import is_held_out
from streamward.data.jsonl import Sample, contrastive_pair, parse_row
from streamward.errors import InputError
from streamward.evals.dataset_adapters import DATASET_ADAPTERS
from streamward.evals.predictions import LabelledRow, Slices
from streamward.evals.readers import SUFFIXES, Record, read_records
from streamward.evals.registry import Kind, SetEntry, cohort_of, entry_of, set_entries
from streamward.schema import RiskLevel, Side, Span

_SCHEMA_KEYS = frozenset({"prompt_label", "response_label"})


@dataclass(frozen=True, slots=True)
class EvalSet:
    """One side of one set, ready to be judged.

    Attributes:
        name: As in the registry.
        side: Which side is judged.
        rows: What is judged.
        keeps_tokens: Whether the tokens of responses are kept, for stream metrics.
        perturbation: Perturbation of the texts; None for the original texts.
        sampled_from: Rows of the whole set, where these are a sample.
    """

    name: str
    side: Side
    rows: tuple[LabelledRow, ...]
    keeps_tokens: bool = False
    perturbation: str | None = None
    sampled_from: int | None = None

    def sha256(self) -> str:
        """Return the hash of the rows, labels included."""
        digest = hashlib.sha256()
        for row in self.rows:
            label = None if row.label is None else row.label.value
            facts = [row.id, row.side.value, row.text, row.prompt, label, row.refusal, row.spans, row.language]
            digest.update(json.dumps(facts).encode())
        return digest.hexdigest()

    def keep(self, is_kept: Callable[[LabelledRow], bool]) -> "EvalSet":
        """Return the rows of some kind."""
        return replace(self, rows=tuple(row for row in self.rows if is_kept(row)))

    def sample(self, most: int, *, seed: str = "streamward") -> "EvalSet":
        """Return a fixed sample of at most so many rows; the same rows on every machine, in their order."""
        if len(self.rows) <= most:
            return self

        def rank(row: LabelledRow) -> bytes:
            return hashlib.sha256(f"{seed}|{self.name}|{self.side}|{row.id}".encode()).digest()

        chosen = {row.id for row in sorted(self.rows, key=rank)[:most]}
        rows = tuple(row for row in self.rows if row.id in chosen)
        return replace(self, rows=rows, sampled_from=self.sampled_from or len(self.rows))


def available_sets(folder: Path) -> list[SetEntry]:
    """Return the sets that a folder holds: those of the registry, and the user's own JSON lines in our schema.

    Raises:
        InputError: There is no such folder, or it holds none.
    """
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder; give one that holds benchmark sets, or `hub`")
    known = [entry for entry in set_entries() if _files_of(folder, entry.name)]
    names = {path.name.removesuffix(".gz").removesuffix(".jsonl") for path in folder.glob("*.jsonl*") if path.is_file()}
    own = [entry_of(name) for name in sorted(names - {entry.name for entry in set_entries()})]
    if not known and not own:
        raise InputError(f"{str(folder)!r} contains no set; files are called like {set_entries()[0].name}.jsonl.gz")
    return known + own


def choose_sets(available: Sequence[SetEntry], names: Sequence[str]) -> list[SetEntry]:
    """Return some of the sets there are, by name.

    Raises:
        InputError: A set is not there; names those there are.
    """
    by_name = {entry.name: entry for entry in available}
    for name in names:
        if name not in by_name:
            raise InputError(f"there is no set {name!r}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names]


def load_set(folder: Path, entry: SetEntry, *, held_out: float | None = None) -> list[EvalSet]:
    """Read one set: our JSON lines, or files in the published layout.

    Args:
        folder: Where its file is.
        entry: What is known of it.
        held_out: Read only the rows that training runs with this `validation_fraction` do not learn from.

    Returns:
        One for each side that is judged; none if all rows were learnt from.

    Raises:
        InputError: Files are missing, or a row is not what the layout says. Names file and row, not the text.
        ConfigError: A package that reads the files is not installed.
    """
    paths = _files_of(folder, entry.name)
    if not paths:
        raise InputError(f"{str(folder)!r} has no {entry.name} (a file {entry.name}.jsonl.gz, or a folder)")
    return read_set(paths, entry, held_out=held_out)


def read_set(paths: Sequence[Path], entry: SetEntry, *, held_out: float | None = None) -> list[EvalSet]:
    """Like `load_set`, from given files."""
    picks: list[tuple[Side, Pick, bool]] = [
        (side, _PICK[side], entry.keeps_tokens and side is Side.RESPONSE) for side in entry.sides
    ]
    if entry.streamed_prompts:
        picks.append((Side.RESPONSE, _streamed_prompt, True))
    samples = list(_samples(paths, entry))
    evals = []
    for side, pick, keeps_tokens in picks:
        rows = list(_rows(samples, entry, side, pick))
        evals.append(EvalSet(entry.name, side, tuple(row for _, row in rows), keeps_tokens))
        if held_out is not None:
            kept = tuple(row for sample, row in rows if is_held_out(sample, fraction=held_out))
            evals[-1] = replace(evals[-1], rows=kept, sampled_from=len(rows))
    if held_out is None and not any(each.rows for each in evals):
        raise InputError(f"{entry.name} contains no row with a label")
    return [each for each in evals if each.rows]


def _files_of(folder: Path, name: str) -> list[Path]:
    """Return `NAME.suffix`, else the data files in a folder `NAME`."""
    single = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
    if single:
        return single[:1]
    inner = folder / name
    return sorted(path for path in inner.rglob("*") if path.is_file() and path.name.endswith(SUFFIXES))


def _samples(paths: Sequence[Path], entry: SetEntry) -> Iterator[tuple[Sample, Mapping[str, Any]]]:
    number = 0
    for path in paths:
        for line, record in enumerate(read_records(path), start=1):
            try:
                for row in _read_record(record, entry):
                    number += 1
                    yield parse_row({"id": str(number), **row}, source=entry.name), row
            except InputError as error:
                raise InputError(f"{path}, row {line}: {error}; is this {entry.name}?") from None
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                what = f"no field {error}" if isinstance(error, KeyError) else "a field has a value of another kind"
                raise InputError(f"{path}, row {line}: {what}; is this {entry.name}?") from None


def _read_record(record: Record, entry: SetEntry) -> Iterator[Mapping[str, Any]]:
    if record.keys() >= _SCHEMA_KEYS and "native" in record:  # our schema; `native` is in none of the others
        return iter([record])
    if entry.layout is None:
        return iter([record]) if record.keys() & _SCHEMA_KEYS else _refuse(entry)
    return DATASET_ADAPTERS[entry.layout](record)


def _refuse(entry: SetEntry) -> Iterator[Mapping[str, Any]]:
    raise InputError(f"{entry.name}: rows need prompt_label or response_label; this set has no published layout")


Pick = Callable[[Sample], tuple[str | None, str | None, RiskLevel | None]]


def _prompt(sample: Sample) -> tuple[str | None, str | None, RiskLevel | None]:
    return sample.prompt or None, None, sample.prompt_label


def _response(sample: Sample) -> tuple[str | None, str | None, RiskLevel | None]:
    return sample.response, sample.prompt or None, sample.response_label


def _streamed_prompt(sample: Sample) -> tuple[str | None, str | None, RiskLevel | None]:
    return (None if sample.spans is None else sample.prompt), None, sample.prompt_label


_PICK: Mapping[Side, Pick] = {Side.PROMPT: _prompt, Side.RESPONSE: _response}


def _rows(
    samples: Sequence[tuple[Sample, Mapping[str, Any]]], entry: SetEntry, side: Side, pick: Pick
) -> Iterator[tuple[Sample, LabelledRow]]:
    seen: dict[str, int] = {}
    for sample, record in samples:
        text, prompt, label = pick(sample)
        refusal = sample.refusal if side is Side.RESPONSE and pick is _response else None
        has_span = sample.spans is not None and pick is not _prompt
        if text is None or (entry.has_labels and label is None and refusal is None and not has_span):
            continue
        seen[sample.id] = seen.get(sample.id, 0) + 1
        kinds: list[Kind] = ["prompt"] if side is Side.PROMPT else ["response"] * (label is not None)
        kinds += ["refusal"] * (refusal is not None)
        labelled = LabelledRow(
            id=sample.id if seen[sample.id] == 1 else f"{sample.id}#{seen[sample.id]}",
            side=side,
            text=text,
            prompt=prompt,
            label=label,
            categories=sample.categories,
            language=sample.language or "en",
            refusal=refusal,
            spans=_spans(sample, pick),
            unsafe_start=sample.unsafe_start if pick is _response else None,
            cohort=cohort_of(entry.name, kinds, record.get("native") or {}) if pick is not _streamed_prompt else "ours",
            slices=_slices(record.get("native") or {}),
        )
        yield sample, labelled


def _slices(native: Mapping[str, Any]) -> Slices:
    group, identity, cue, variant = (str(native.get(key) or "") for key in ("group", "identity", "cue", "variant"))
    return Slices(group, identity, contrastive_pair(native), cue, variant)


def _spans(sample: Sample, pick: Pick) -> tuple[Span, ...] | None:
    """Spans are over the response where there is one, else over the prompt."""
    is_over_response = sample.response is not None
    return sample.spans if is_over_response == (pick is _response) else None
