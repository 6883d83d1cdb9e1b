"""Quality of answers that were changed: harm, refusals and fluency, judged by models that are not in the loop."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from streamward.bench.intervene import BenchPrompt, ChangedAnswer
from streamward.errors import ConfigError
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
        nll: Mean negative log-likelihood per token under the model that answered; None for an empty answer.
    """

    id: str
    text: str
    risk_level: str
    refusal: bool | None
    nll: float | None


class QualityJudge:
    """Judges each text once; goes on where a former run into the same folder stopped."""

    def __init__(self, folder: Path, *, advance: Callable[[str, int, int], None]) -> None:
        """Take up what was judged before."""
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
            self._judge_all(left, asked)
        return self._known

    def _judge_all(self, left: Sequence[tuple[str, str]], asked: dict[str, str]) -> None:
        import streamward

        likelihood = Likelihood()
        with streamward.load(JUDGE) as guard, self._path.open("a", encoding="utf-8") as file:
            for count, (name, text) in enumerate(left, 1):
                level, refusal = RiskLevel.SAFE, None
                if text.strip():
                    found = guard.moderate(prompt=asked[name], response=text).response
                    if found is not None:
                        level, refusal = found.risk_level, found.refusal
                quality = AnswerQuality(name, text, level.value, refusal, likelihood.nll(asked[name], text))
                file.write(json.dumps(asdict(quality), ensure_ascii=False) + "\n")
                file.flush()
                self._known[name, text] = quality
                self._advance("judging", count, len(left))


class Likelihood:
    """How likely the model that answers finds an answer."""

    def __init__(self) -> None:
        """Load the model.

        Raises:
            ConfigError: transformers is not installed.
        """
        import torch

        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise ConfigError("bench-intervene needs transformers; install streamward[train]") from error
        from streamward.bundled.base import prepare_base

        folder = str(prepare_base())
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # bfloat16 crawls on many CPUs
        self._model.train(False)

    def nll(self, prompt: str, text: str) -> float | None:
        """Return the mean negative log-likelihood of the tokens of an answer; None if it has none."""
        import torch

        head = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        before = self._tokenizer(head)["input_ids"]
        after = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if not after:
            return None
        ids = torch.tensor([[*before, *after]])
        with torch.inference_mode():
            logits_tV = self._model(input_ids=ids).logits[0, len(before) - 1 : -1].float()
        chosen_t = logits_tV.log_softmax(dim=-1).gather(1, torch.tensor(after)[:, None])
        value = -float(chosen_t.mean())
        return value if math.isfinite(value) else None
