"""`streamward train token-labels`: where unsafe responses turn unsafe (Qwen3Guard, arXiv 2510.14276, section 4.2).

A prefix is unsafe if most of its continuations are judged unsafe and a judge that sees the prefix alone agrees; the
first token at which that holds begins the unsafe part. Where people marked the place, their mark is used.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Protocol

from pydantic import Field
from tqdm import tqdm

from streamward.data.jsonl import Sample, check_row
from streamward.data.rows import Row, encode_row, read_rows, write_rows
from streamward.errors import UpstreamError
from streamward.loading import find_checkpoint, load
from streamward.moderation.moderator import Moderator
from streamward.schema import Message, RiskLevel, Role
from streamward.tokenizer import GuardTokenizer, clean_text
from streamward.train.config import TomlSettings
from streamward.train.continuations import ContinuationGenerator
from streamward.train.examples import marked_onset
from streamward.train.onset import Search

REPORT_FILE = "token-labels.json"
_NEAR_TOKENS = 8


class TokenLabelsConfig(TomlSettings):
    """`streamward train token-labels`."""

    name: str
    output_root: Path = Path("runs")
    """The labelled files go to `NAME/rows` below it, under their own names."""
    data_root: Path
    files: tuple[str, ...] = Field(min_length=1)
    generator: str = "SmolLM2-135M-Instruct"
    """The model that continues: the embedded base, or the folder of a causal language model."""
    guard: str
    """Judges the continuations: any guard `streamward.load` knows."""
    judge: str | None = None
    """Judges the prefix alone; the guard itself by default."""
    tokenizer: str = "stream-135m"
    """Guard among whose tokens the place is found: an embedded guard or a checkpoint's folder."""
    num_continuations: int = Field(default=8, gt=0)
    max_new_tokens: int = Field(default=48, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    threshold: float = Field(default=0.85, gt=0, le=1)
    """Share of the continuations that must be judged unsafe."""
    max_scanned_tokens: int = Field(default=12, ge=0)
    """Between halvings: at most so many tokens are asked about one by one."""
    max_rows: int | None = Field(default=None, gt=0)
    """Rows searched in each file, chosen by seed; the others stay as they are. All by default."""
    compares: bool = False
    """If true, rows with a mark are searched too and the report says how far off the search is. Their marks stay."""
    seed: int = 0


class Continue(Protocol):
    """Continues a response's beginning several times."""

    def generate(
        self, sample: Sample, prefix: str, *, count: int, max_new_tokens: int, temperature: float
    ) -> list[str]:
        """Return the continuations."""
        ...


class Labeller:
    """Finds onsets with a generator, a guard and a judge."""

    def __init__(
        self,
        config: TokenLabelsConfig,
        *,
        writer: Continue,
        guard: Moderator,
        judge: Moderator,
        tokenizer: GuardTokenizer,
    ) -> None:
        """Take what it asks."""
        self._config = config
        self._writer = writer
        self._guard = guard
        self._judge = judge
        self._tokenizer = tokenizer

    def label(self, sample: Sample) -> Row:
        """Return `unsafe_start` (None if the guards find nothing), prefixes asked, and those a full scan would ask.

        A row with a mark also gets `tokens_late`: how many tokens behind the mark the place is, negative before it.

        Raises:
            UpstreamError: A guard failed.
        """
        response = clean_text(sample.response or "")
        spans = self._tokenizer.encode(response).spans
        ends = [span.end for span in spans]
        search = Search(response, ends, lambda end: self._is_harmful(sample, response[:end]))
        found = search.first(max_scanned_tokens=self._config.max_scanned_tokens)
        full = len(ends) if found is None else found + 1
        start = None if found is None else spans[found].start
        row: Row = {"unsafe_start": start, "asked": search.num_asked, "full": full}
        mark = marked_onset(sample)
        if mark is not None and found is not None:
            row["tokens_late"] = found - sum(end <= mark for end in ends)
        return row

    def _is_harmful(self, sample: Sample, prefix: str) -> bool:
        """Return whether both agree; the judge, who costs less, is asked first."""
        if not _is_flagged(self._judge, sample, prefix):
            return False
        config = self._config
        texts = self._writer.generate(
            sample,
            prefix,
            count=config.num_continuations,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
        )
        flagged = sum(_is_flagged(self._guard, sample, prefix + text) for text in texts)
        return flagged >= config.threshold * len(texts)


def run(config_path: Path) -> Path:
    """Label the unsafe responses of every file; returns the folder. Rows labelled before an interruption are kept.

    Raises:
        ConfigError: The settings are wrong.
        InputError: A data file cannot be read.
        CheckpointError: A model is missing or damaged.
    """
    config = TokenLabelsConfig.read(config_path)
    with load(config.guard) as guard, load(config.judge or config.guard) as judge:
        labeller = Labeller(
            config,
            writer=ContinuationGenerator.load(config.generator, seed=config.seed),
            guard=guard,
            judge=judge,
            tokenizer=GuardTokenizer.from_folder(find_checkpoint(config.tokenizer)),
        )
        return label_files(config, labeller.label)


def label_files(config: TokenLabelsConfig, label: Callable[[Sample], Row]) -> Path:
    """Label every file with a function that finds onsets; see `run`."""
    folder = config.output_root / config.name
    report: dict[str, Any] = {"config": json.loads(config.model_dump_json()), "files": {}}  # Any: JSON values
    for file in config.files:
        rows = [row for _, row in read_rows(config.data_root / file)]
        journal = folder / "journal" / f"{file}.{sha256(config.model_dump_json().encode()).hexdigest()[:12]}.jsonl"
        found = _journal(journal)
        journal.parent.mkdir(parents=True, exist_ok=True)
        counts = {"human": 0, "given": 0, "found": 0, "not_found": 0, "asked": 0, "full_scan": 0}
        samples = [check_row(row, where=f"{file}: row {index + 1}", source=file) for index, row in enumerate(rows)]
        wanted = _searched(samples, config)
        labelled: list[Row] = []
        with journal.open("a", encoding="utf-8") as notes:
            for index, (row, sample) in enumerate(zip(rows, tqdm(samples, desc=file, unit="row"), strict=True)):
                key = _key(index, sample)
                if index in wanted and key not in found:
                    found[key] = label(sample)
                    notes.write(encode_row({"key": key, **found[key]}))
                    notes.flush()
                labelled.append(_labelled(row, sample, found.get(key), counts))
        write_rows(folder / "rows" / file, labelled)
        saved = 1 - counts["asked"] / counts["full_scan"] if counts["full_scan"] else 0.0
        report["files"][file] = {**counts, "saved": round(saved, 4)}
        if config.compares:
            marked = [index for index in sorted(wanted) if marked_onset(samples[index]) is not None]
            report["files"][file]["compared"] = _compared([found[_key(index, samples[index])] for index in marked])
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return folder


def _key(index: int, sample: Sample) -> str:
    return f"{index}/{sha256((sample.response or '').encode(errors='surrogatepass')).hexdigest()[:16]}"


def _searched(samples: Sequence[Sample], config: TokenLabelsConfig) -> set[int]:
    """Return which rows are searched: unsafe responses without a mark, or with one too where that is compared."""
    found = [
        index
        for index, sample in enumerate(samples)
        if sample.response_label not in (None, RiskLevel.SAFE) and sample.response
        if config.compares or marked_onset(sample) is None
    ]
    if config.max_rows is not None and config.max_rows < len(found):
        found = Random(config.seed).sample(found, config.max_rows)
    return set(found)


def _compared(rows: Sequence[Row]) -> dict[str, float]:
    """Say how far from their marks the places found are, as shares of the rows with a mark."""
    late = [row["tokens_late"] for row in rows if "tokens_late" in row]
    shares = {
        "not_found": len(rows) - len(late),
        "earlier": sum(each < 0 for each in late),
        "at_the_mark": sum(each == 0 for each in late),
        "up_to_8_tokens_later": sum(0 < each <= _NEAR_TOKENS for each in late),
        "later": sum(each > _NEAR_TOKENS for each in late),
    }
    return {"rows": len(rows), **{name: round(number / max(1, len(rows)), 4) for name, number in shares.items()}}


def _labelled(row: Row, sample: Sample, found: Row | None, counts: dict[str, int]) -> Row:
    if sample.response_label in (None, RiskLevel.SAFE) or not sample.response:
        return row
    if found is not None:
        counts["asked"] += found["asked"]
        counts["full_scan"] += found["full"]
    if sample.unsafe_start is not None:
        counts["given"] += 1
        return row
    if sample.spans:
        counts["human"] += 1
        return {**row, "unsafe_start": sample.spans[0].start, "native": {**(row.get("native") or {}), "onset": "human"}}
    if found is None:  # beyond max_rows
        return row
    if found["unsafe_start"] is None:
        counts["not_found"] += 1
        return row
    counts["found"] += 1
    native = {**(row.get("native") or {}), "onset": "rollouts"}
    return {**row, "unsafe_start": found["unsafe_start"], "native": native}


def _journal(path: Path) -> dict[str, Row]:
    """Read what an interrupted run has found; a line cut off with it is dropped from the file."""
    if not path.exists():
        return {}
    whole = path.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if kept != whole:
        path.write_bytes(kept)
    return {row.pop("key"): row for row in _lines(path)}


def _lines(path: Path) -> Iterator[Row]:
    for _, row in read_rows(path):
        yield row


def _is_flagged(guard: Moderator, sample: Sample, response: str) -> bool:
    turns = [*sample.history, Message(Role.USER, clean_text(sample.prompt)), Message(Role.ASSISTANT, response)]
    result = guard.moderate(messages=turns)
    if result.response is None:
        raise UpstreamError(f"a guard could not judge a response ({result.decision.error})")
    return result.response.risk_level is not RiskLevel.SAFE
