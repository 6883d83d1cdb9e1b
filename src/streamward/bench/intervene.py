"""`streamward bench-intervene`: what changing answers in progress gains and costs, on the embedded assistant."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from streamward.bench.answer_writer import BatchedAssistant, WriteRequest
from streamward.bench.intervene_config import (
    CHECKED,
    UNGUARDED,
    InterveneBenchConfig,
    InterveneVariant,
    variants,
)
from streamward.bench.recorded_guard import RecordedGuard
from streamward.intervene.generation import GenerationPrefix, GuardedGeneration

_PROMPTS_TOGETHER = 8  # answers whose tokens the guard judges in one step
_Variants = list[InterveneVariant | None]

GUARD = "stream-135m"
"""The guard in the loop."""


@dataclass(frozen=True, slots=True)
class BenchPrompt:
    """One prompt.

    Attributes:
        id: In its data set.
        kind: `risky` or `ordinary`.
        prompt: The user's text.
    """

    id: str
    kind: str
    prompt: str


@dataclass(frozen=True, slots=True)
class ChangedAnswer:
    """One answer of one variant.

    Attributes:
        variant: Name of the variant.
        id: Id of the prompt.
        text: What the reader gets.
        finish_reason: How it ended.
        interventions: What was changed, as `InterventionRecord` has it, without times.
        num_calls: How often the model was asked.
    """

    variant: str
    id: str
    text: str
    finish_reason: str
    interventions: Sequence[dict[str, Any]]  # Any: JSON values
    num_calls: int


class ContinuationKey(NamedTuple):
    """Key of a text of the model: the same key has the same text, in every variant and in a later run."""

    id: str
    """Id of the prompt."""
    kept: str
    """The answer so far."""
    self_check: str
    """Text that the model reads behind it."""
    attempt: int
    """The seed counts up with it."""
    raise_temperature: float


class _PromptTurn(NamedTuple):
    """Answers to one prompt in one round, and variants that wait."""

    answers: list[ChangedAnswer]
    waiting: list[tuple[InterveneVariant | None, ContinuationKey]]


class MissingContinuationError(Exception):
    """The model has not been asked yet."""

    def __init__(self, key: ContinuationKey) -> None:
        """Name what is missing."""
        super().__init__("not written yet")
        self.key = key


def read_prompts(config: InterveneBenchConfig) -> list[BenchPrompt]:
    """Return the first prompts of each kind."""
    lines = (files("streamward.bench") / "data" / "intervene.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [BenchPrompt(**json.loads(line)) for line in lines]
    kinds = {"risky": config.num_risky, "ordinary": config.num_ordinary}
    return [each for kind, most in kinds.items() for each in [p for p in prompts if p.kind == kind][:most]]


class InterveneBench:
    """Gives every variant every prompt; goes on where a former run into the same folder stopped.

    What variants have in common is computed once: a text of the model, by all that it depends on, and what the guard
    says of a beginning of an answer. Variants whose next text is missing wait until it has been written, together with
    all others that are missing then, in one batch.
    """

    def __init__(self, config: InterveneBenchConfig, folder: Path, *, advance: Callable[[str, int, int], None]) -> None:
        """Ask nothing yet.

        Args:
            config: What is measured.
            folder: Where answers are kept.
            advance: Is told what is done, how many of how many.
        """
        self._config = config
        self._folder = folder
        self._advance = advance
        self._answers = folder / "answers.jsonl"
        self._continuations = _Continuations(folder / "continuations.jsonl")

    def run(self, guard: RecordedGuard, writer: BatchedAssistant) -> list[ChangedAnswer]:
        """Return all answers.

        Args:
            guard: Judges answers, under `loop_policy`.
            writer: The model.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        prompts = {prompt.id: prompt for prompt in read_prompts(self._config)}
        done = {(answer.variant, answer.id) for answer in self.read()}
        compared = [None, *variants(self._config)]
        left: dict[str, _Variants] = {}
        for variant in compared:
            name = UNGUARDED if variant is None else variant.name
            for prompt in prompts:
                if (name, prompt) not in done:
                    left.setdefault(prompt, []).append(variant)
        total, turn = sum(map(len, left.values())), 0
        with ThreadPoolExecutor(_PROMPTS_TOGETHER) as pool:
            while left:
                turns = pool.map(lambda each: self._answer_all(prompts[each[0]], each[1], guard), list(left.items()))
                waiting: dict[str, _Variants] = {}
                missing: dict[ContinuationKey, None] = {}
                for count, found in enumerate(turns, 1):
                    for answer in found.answers:
                        _append(self._answers, asdict(answer))
                    for variant, key in found.waiting:
                        waiting.setdefault(key.id, []).append(variant)
                        missing[key] = None
                    self._advance(f"round {turn}: prompts guarded", count, len(left))
                self._advance("answers", total - sum(map(len, waiting.values())), total)
                turn += 1
                self._write(list(missing), prompts, writer, turn)
                left = waiting
        return self.read()

    def _answer_all(self, prompt: BenchPrompt, compared: "_Variants", guard: RecordedGuard) -> "_PromptTurn":
        """Answer a prompt in every variant whose texts are there."""
        found = _PromptTurn([], [])
        for variant in compared:
            try:
                found.answers.append(self._answer(variant, prompt, guard))
            except MissingContinuationError as error:
                found.waiting.append((variant, error.key))
        return found

    def read(self) -> list[ChangedAnswer]:
        """Return the answers that are there."""
        return [ChangedAnswer(**line) for line in _lines(self._answers)]

    def _answer(self, variant: InterveneVariant | None, prompt: BenchPrompt, guard: RecordedGuard) -> ChangedAnswer:
        def generate(prefix: GenerationPrefix) -> Sequence[str]:
            return self._continuations.get(
                ContinuationKey(
                    prompt.id, prefix.text, prefix.self_check, prefix.attempt, round(prefix.raise_temperature, 3)
                )
            )

        if variant is None:
            return ChangedAnswer(UNGUARDED, prompt.id, "".join(generate(GenerationPrefix())), "stop", [], 1)
        release = variant.release()
        if release is None:
            return _checked(prompt, generate(GenerationPrefix()), guard)
        run = GuardedGeneration(generate, guard, prompt=prompt.prompt, release=release)
        text = "".join(run)
        found = run.answer
        interventions = [{k: v for k, v in asdict(each).items() if k != "wait_ms"} for each in found.interventions]
        return ChangedAnswer(variant.name, prompt.id, text, found.finish_reason, interventions, found.num_calls)

    def _write(
        self, keys: Sequence[ContinuationKey], prompts: dict[str, BenchPrompt], writer: BatchedAssistant, turn: int
    ) -> None:
        requests = [self._request(key, prompts[key.id].prompt, writer) for key in keys]
        for count, (number, pieces) in enumerate(writer.write(requests), 1):
            self._continuations.add(keys[number], pieces)
            self._advance(f"round {turn}: writing", count, len(keys))

    def _request(self, key: ContinuationKey, prompt: str, writer: BatchedAssistant) -> WriteRequest:
        whole = GenerationPrefix(key.kept, key.self_check).whole
        num_kept = len(writer.encode(key.kept)) if key.kept else 0
        return WriteRequest(
            writer.prompt_ids(prompt, answer=whole),
            max_tokens=max(1, self._config.max_tokens - num_kept),
            temperature=min(2.0, self._config.temperature + key.raise_temperature),
            seed=1 + key.attempt,
        )


def _checked(prompt: BenchPrompt, pieces: Sequence[str], guard: RecordedGuard) -> ChangedAnswer:
    """Return what mode `checked` lets through: the answer up to the first flagged token."""
    stream = guard.stream(prompt.prompt)
    try:
        for piece in pieces:
            stream.feed(piece)
            if stream.decision.is_blocked:
                break
        else:
            stream.finish()
        is_blocked = stream.decision.is_blocked
        text = "".join(pieces)
        shown = text[: stream.releasable_chars] if is_blocked else text
    finally:
        stream.close()
    return ChangedAnswer(CHECKED, prompt.id, shown, "content_filter" if is_blocked else "stop", [], 1)


class _Continuations:
    """Texts of the model, in a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = {ContinuationKey(*line["key"]): line["pieces"] for line in _lines(path)}

    def get(self, key: ContinuationKey) -> Sequence[str]:
        if key not in self._known:
            raise MissingContinuationError(key)
        pieces: Sequence[str] = self._known[key]
        return pieces

    def add(self, key: ContinuationKey, pieces: Sequence[str]) -> None:
        self._known[key] = list(pieces)
        _append(self._path, {"key": list(key), "pieces": list(pieces)})


def _lines(path: Path) -> Iterator[dict[str, Any]]:  # Any: JSON values
    """Yield the rows of a file of JSON lines, which may not be there yet, or end in a line that was cut short."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines.pop():  # an interrupted run wrote half of the line
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    yield from map(json.loads, lines)


def _append(path: Path, row: dict[str, Any]) -> None:  # Any: JSON values
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
