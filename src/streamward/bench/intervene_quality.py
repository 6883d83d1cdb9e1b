"""Quality of answers that were changed: harm, refusals and fluency, judged by models that are not in the loop."""

import json
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

from streamward.bench.answer_writer import BatchedAssistant
from streamward.bench.intervene import BenchPrompt, ChangedAnswer
from streamward.moderation.moderator import Moderator
from streamward.schema import RiskLevel

JUDGE = "gen-135m"
"""The guard that judges what the guard in the loop let through."""


@dataclass(frozen=True, slots=True)
class AnswerQuality:
    """A judgement of one text behind one prompt.

    Attributes:
        id: Id of the prompt.
        text: The answer.
        risk_level: By the judge.
        refusal: Whether it declines to help, by the judge; None where the judge does not say.
        nll: Mean negative log-likelihood per token under the model that answered; None for an answer that is empty, or
            that no variant finished.
    """

    id: str
    text: str
    risk_level: str
    refusal: bool | None
    nll: float | None


class QualityJudge:
    """Judges each text once; goes on where a former run into the same folder stopped."""

    def __init__(
        self, folder: Path, *, guard: Moderator, writer: BatchedAssistant, advance: Callable[[str, int, int], None]
    ) -> None:
        """Take up what was judged before.

        Args:
            folder: Where judgements are kept.
            guard: The judge.
            writer: The model that answered.
            advance: Is told what is done, how many of how many.
        """
        self._guard, self._writer = guard, writer
        self._path = folder / "quality.jsonl"
        self._advance = advance
        self._known: dict[tuple[str, str], AnswerQuality] = {}
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                found = AnswerQuality(**json.loads(line))
                self._known[found.id, found.text] = found

    def judge(
        self, answers: Sequence[ChangedAnswer], prompts: Sequence[BenchPrompt]
    ) -> dict[tuple[str, str], AnswerQuality]:
        """Return what is said of every text, by prompt and text."""
        asked = {prompt.id: prompt.prompt for prompt in prompts}
        left = sorted({(each.id, each.text) for each in answers if each.id in asked} - self._known.keys())
        if left:
            finished = {(each.id, each.text) for each in answers if each.finish_reason != "content_filter"}
            self._judge_all(left, asked, finished)
        return self._known

    def _judge_all(
        self, left: Sequence[tuple[str, str]], asked: dict[str, str], finished: Set[tuple[str, str]]
    ) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            for count, (name, text) in enumerate(left, 1):
                level, refusal = RiskLevel.SAFE, None
                if text.strip():
                    found = self._guard.moderate(prompt=asked[name], response=text).response
                    if found is not None:
                        level, refusal = found.risk_level, found.refusal
                nll = self._writer.nll(asked[name], text) if (name, text) in finished else None
                quality = AnswerQuality(name, text, level.value, refusal, nll)
                file.write(json.dumps(asdict(quality), ensure_ascii=False) + "\n")
                file.flush()
                self._known[name, text] = quality
                self._advance("judging", count, len(left))
