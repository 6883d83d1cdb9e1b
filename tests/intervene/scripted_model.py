"""A model that says what it is told, under a guard that flags two `#` in a row."""

from collections.abc import Iterator, Sequence

from streamward.errors import StreamwardError
from streamward.intervene.generation import GenerationPrefix
from streamward.ladder import LadderAction, LadderStep, ReleasePolicy
from streamward.moderation.guard_stream import GuardStream, ReasoningTokens
from streamward.policy import Policy
from streamward.text_stream import TextStream
from tests.gateway.scripted import TOKENIZER, HashJudge

STRICT = Policy.load("strict")


class HashGuard:
    """Stands for a `Moderator`: every two `#` in a row are over the policy's threshold."""

    def __init__(self, policy: Policy = STRICT, *, fails_at: int | None = None) -> None:
        self.policy = policy
        self.num_open = 0
        self._fails_at = fails_at

    def stream(self, prompt=None, messages=None) -> GuardStream:
        self.num_open += 1
        error = StreamwardError("broken") if self._fails_at is not None else None
        return GuardStream(
            TextStream(TOKENIZER),
            HashJudge(self._fails_at, error),  # type: ignore[arg-type]  # as it is used
            policy=self.policy,
            prompt=None,
            prompt_decision=None,
            reasoning=ReasoningTokens(None, 0),
            max_chars=100_000,
            on_close=self._close,
        )

    def _close(self) -> None:
        self.num_open -= 1


class ScriptedModel:
    """Continues with one text after another, cut as told; the last one again and again."""

    def __init__(self, *texts: str, sizes: Sequence[int] = (1,)) -> None:
        self.prefixes: list[GenerationPrefix] = []
        self.num_closed = 0
        self.num_said = 0
        self._texts = texts
        self._sizes = sizes

    def __call__(self, prefix: GenerationPrefix) -> Iterator[str]:
        text = self._texts[min(len(self.prefixes), len(self._texts) - 1)]
        self.prefixes.append(prefix)
        start = turn = 0
        try:
            while start < len(text):
                size = self._sizes[turn % len(self._sizes)]
                self.num_said += len(text[start : start + size])
                yield text[start : start + size]
                start, turn = start + size, turn + 1
        finally:
            self.num_closed += 1


def ladder(*steps: LadderStep, hold: int = 4) -> ReleasePolicy:
    return ReleasePolicy(mode="intervene", hold_tokens=hold, ladder=steps)


def step(action: str, attempts: int = 1, **settings) -> LadderStep:
    return LadderStep(action=LadderAction(action), attempts=attempts, **settings)
