"""Judges the growing tokens of one response in one engine stream."""

from collections.abc import Sequence
from dataclasses import replace

from streamward.engine.outputs import StepOutput
from streamward.moderation.coroutines import Scores
from streamward.moderation.taught_rules import RuleReader
from streamward.moderation.token_scorer import TokenScorer
from streamward.moderation.verdicts import VerdictReader
from streamward.moderation.window import Windows
from streamward.rules.probe import WARM_TOKENS
from streamward.schema import FiredRule, Side, Span, Verdict

_UNKNOWN = -1
OVERLAP_SHARE = 4  # a quarter of a window is read again as context of the next


class ResponseJudge:
    """Keeps the cache of one response in step with its token ids, sliding over overlapping windows."""

    def __init__(
        self,
        scorer: TokenScorer,
        reader: VerdictReader,
        *,
        stream_id: int,
        context_length: int,
        window_tokens: int,
        rules: RuleReader,
    ) -> None:
        """Take over a stream that has read its context and nothing else.

        Args:
            scorer: Where the stream is open.
            reader: Reader of the response heads.
            stream_id: The stream; its owner closes it.
            context_length: Tokens of the context.
            window_tokens: Most tokens the stream may hold; more than the context.
            rules: Reads the taught rules of the response.
        """
        size = window_tokens - context_length
        self._scorer = scorer
        self._reader = reader
        self._rules = rules
        self._stream_id = stream_id
        self._context_length = context_length
        self._windows = Windows(size, size // OVERLAP_SHARE)
        self._window = 0  # the window in the cache
        self._end = 0  # position after the last token in the cache; _UNKNOWN after a failed read
        self._ids: list[int] = []

    @property
    def num_tokens(self) -> int:
        """Tokens judged and not dropped."""
        return len(self._ids)

    @property
    def num_windows(self) -> int:
        """Windows the response was judged in."""
        return self._windows.index(max(0, len(self._ids) - 1)) + 1

    @property
    def holds_thread(self) -> bool:
        """True if `replace` holds its thread until the tokens are judged."""
        return self._scorer.holds_thread

    def short_text_rules(self) -> tuple[FiredRule, ...]:
        """Return the rules that a finished response breaks that was too short to be judged by them token by token."""
        return self._rules.last() if len(self._ids) <= WARM_TOKENS + 1 else ()

    def drop_context(self, num_tokens: int) -> None:
        """Forget the last tokens of the context. Only before anything was judged."""
        assert not self._ids, "the context is fixed once tokens were judged"
        self._context_length -= num_tokens
        self._scorer.truncate(self._stream_id, self._context_length)

    async def replace(self, keep: int, new_ids: Sequence[int], *, spans: Sequence[Span | None]) -> list[Verdict]:
        """Keep the first tokens, drop the others, judge new ones behind them.

        Args:
            keep: Tokens to keep.
            new_ids: Ids of the new tokens.
            spans: Their characters.

        Returns:
            One verdict of each new token.

        Raises:
            OverloadedError: No room at present. What was judged before this call stays judged, and the same call
                may be made again.
        """
        del self._ids[keep:]
        self._rules.truncate(keep)
        verdicts: list[Verdict] = []
        while len(verdicts) < len(new_ids):
            done = len(verdicts)
            position = keep + done
            window = self._windows.index(position)
            await self._place(window, position)
            part = new_ids[done : done + self._windows.end(window) - position]
            self._end = _UNKNOWN  # stays unknown until the read below has succeeded
            for output in await self._score(part, Side.RESPONSE):
                first = keep + len(verdicts)
                rows = spans[len(verdicts) : len(verdicts) + len(output.risk_probs)]
                found = self._reader.read(output, first_position=first, spans=rows)
                fired = self._rules.read(output)
                verdicts += [replace(each, rules=by) if by else each for each, by in zip(found, fired, strict=True)]
            self._ids += part
            self._end = position + len(part)
        return verdicts

    async def _place(self, window: int, position: int) -> None:
        """Make the cache hold the context and the window's tokens before `position`."""
        start = self._windows.start(window)
        if window == self._window and position <= self._end:
            if position < self._end:
                self._scorer.truncate(self._stream_id, self._context_length + position - start)
        else:
            self._end = _UNKNOWN
            self._scorer.truncate(self._stream_id, self._context_length)
            self._window = window
            await self._score(self._ids[start:position], None)
        self._end = position

    async def _score(self, ids: Sequence[int], head: Side | None) -> list[StepOutput]:
        return await Scores(self._scorer.submit(self._stream_id, [(ids, head)]))
