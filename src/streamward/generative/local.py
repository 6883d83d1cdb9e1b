"""A Gen guard on this machine: scores the label words instead of generating freely."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streamward.errors import CheckpointError, ContextLengthError
from streamward.generative.judgement import GenJudgement
from streamward.generative.language_model import LanguageModel, TokenSession
from streamward.generative.parsing import NO_CATEGORY
from streamward.guard_call import current_call
from streamward.schema import Category, Message, RiskLevel, Role
from streamward.tokenizer import GuardTokenizer, Rendered

_OVERLAP_SHARE = 4  # a quarter of a window is read again in the next
_CUT_TOKENS = 8  # that the cut ends of a window may take more than they did within the text
_RESPONSE_CATEGORIES = [category for category in Category if category is not Category.JAILBREAK]
Paths = Mapping[str, Sequence[int]]  # token ids of each word


class LocalGenGuard:
    """Judges the last message of a conversation with the checkpoint's own template. Thread-safe: one window at a time.

    The conversation is read once; behind it `Safety: ` is forced and the words that can follow are scored, then
    `Categories: ` and `Refusal: ` likewise. The word chosen is always that of greedy generation among the allowed
    ones: where words share their first tokens, the best next token is taken at each step. The probability of a level
    is the product over its tokens, each normalised over the tokens allowed at its step; so the level chosen is the
    most probable one unless levels share their first token, when greedy generation may end elsewhere.
    """

    def __init__(self, model: LanguageModel, tokenizer: GuardTokenizer) -> None:
        """Take a loaded checkpoint.

        Raises:
            CheckpointError: The tokenizer cannot tell the label words apart.
        """
        self._model = model
        self._tokenizer = tokenizer
        self._levels = self._paths("Safety: ", list(RiskLevel))
        self._no_category = self._paths("\nCategories: ", [NO_CATEGORY])
        self._categories = {
            Role.USER: self._paths("\nCategories: ", list(Category)),
            Role.ASSISTANT: self._paths("\nCategories: ", _RESPONSE_CATEGORIES),
        }
        self._refusals = self._paths("\nRefusal: ", ["Yes", "No"])
        lines = (self._levels, self._no_category | self._categories[Role.USER], self._refusals)
        self._num_answer_tokens = sum(max(map(len, line.values())) for line in lines)
        self._lock = threading.Lock()

    def judge(self, messages: Sequence[Message]) -> GenJudgement:
        """Judge the last message, of the user or the assistant, in the light of those before it.

        A conversation that does not fit loses its oldest turns; a last message that does not fit by itself is judged
        in overlapping windows, and the worst of them counts.

        Raises:
            InputError: The template refuses the conversation.
            ContextLengthError: Not even the template fits.
            CheckpointError: The model gives non-finite logits.
            CallCancelledError: The current call was cancelled.
        """
        judgements = []
        for part in self._windows(messages):
            with self._lock:  # held for one window only, so that a long text does not keep others waiting
                current_call().check()
                judgements.append(self._judge_rendered(part, messages[-1].role))
        worst = max(judgements, key=lambda each: (each.risk_level.severity, 1 - each.probabilities[RiskLevel.SAFE]))
        return replace(worst, windows=len(judgements))

    def close(self) -> None:
        """Nothing is held beyond the model."""

    def _paths(self, lead: str, words: Sequence[str]) -> dict[str, list[int]]:
        """Encode each word behind its lead, as the model writes it: the space is part of the word's first token."""
        paths = {str(word): self._tokenizer.encode(lead + word).ids for word in words}
        if any(after[: len(before)] == before for before, after in pairwise(sorted(paths.values()))):
            raise CheckpointError(f"the guard's tokenizer cannot tell these words apart: {', '.join(words)}")
        return paths

    def _windows(self, messages: Sequence[Message]) -> Iterator[Rendered]:
        max_positions = self._model.max_positions
        limit = max_positions - self._num_answer_tokens
        turns = list(messages)
        rendered = self._render(turns)
        while len(rendered.ids) > limit and len(turns) > 1:
            del turns[0]
            rendered = self._render(turns)
        if len(rendered.ids) <= limit:
            yield rendered
            return
        text, role = turns[-1].content, turns[-1].role
        spans = [span for span, owner in zip(rendered.spans, rendered.owners, strict=True) if owner == 0 and span]
        size = limit - (len(rendered.ids) - len(spans)) - _CUT_TOKENS
        if size < 1:
            raise ContextLengthError(f"the guard's template does not fit into its {max_positions} positions")
        stride = size - size // _OVERLAP_SHARE
        for start in range(0, max(1, len(spans) - size + stride), stride):
            part = spans[start : start + size]
            window = self._render([Message(role, text[part[0].start : part[-1].end])])
            if len(window.ids) > limit:
                raise ContextLengthError(f"a part of the text does not fit into the guard's {max_positions} positions")
            yield window

    def _render(self, turns: Sequence[Message]) -> Rendered:
        return self._tokenizer.render(turns, is_open=True)

    def _judge_rendered(self, rendered: Rendered, role: Role) -> GenJudgement:
        reader = self._model.session(rendered.ids, capacity=len(rendered.ids) + self._num_answer_tokens)
        probabilities = _score(reader, self._levels)
        level = RiskLevel(_walk(reader, self._levels))
        is_safe = level is RiskLevel.SAFE
        word = _walk(reader, self._no_category if is_safe else self._categories[role])
        categories = () if is_safe else (Category(word),)
        refusal = _walk(reader, self._refusals) == "Yes" if role is Role.ASSISTANT else None
        return GenJudgement(level, {each: probabilities[each] for each in RiskLevel}, categories, refusal)


def _walk(reader: TokenSession, paths: Paths) -> str:
    """Read the word of greedy generation among some, and return it."""
    depth = 0
    while len(paths) > 1:
        branches = _branches(paths, depth)
        logits = _checked(reader) if len(branches) > 1 else None
        token = next(iter(branches)) if logits is None else max(branches, key=lambda each: float(logits[each]))
        reader.read([token])
        paths, depth = branches[token], depth + 1
    ((word, path),) = paths.items()
    reader.read(path[depth:])
    return word


def _score(reader: TokenSession, paths: Paths) -> dict[str, float]:
    """Return the probability of each word; they sum to 1. The reader stands where it stood."""
    shares: dict[str, float] = {}
    _add_shares(reader, paths, 0, 1.0, shares)
    return shares


def _add_shares(reader: TokenSession, paths: Paths, depth: int, share: float, shares: dict[str, float]) -> None:
    """Walk the trie of words that agree in their first `depth` tokens, which the reader has read.

    Args:
        reader: Stands there; does so again afterwards.
        paths: None begins with another.
        depth: Tokens in common.
        share: Their probability.
        shares: Probability of each whole word; filled.
    """
    if len(paths) == 1:
        (word,) = paths
        shares[word] = share
        return
    branches, length = _branches(paths, depth), reader.length
    parts = [1.0] if len(branches) == 1 else _softmax(_checked(reader)[list(branches)])
    for (token, own), part in zip(branches.items(), parts, strict=True):
        reader.read([token])
        _add_shares(reader, own, depth + 1, share * part, shares)
        reader.truncate(length)


def _branches(paths: Paths, depth: int) -> dict[int, dict[str, Sequence[int]]]:
    """Group words by the token at `depth`."""
    branches: dict[int, dict[str, Sequence[int]]] = {}
    for word, path in paths.items():
        branches.setdefault(path[depth], {})[word] = path
    return branches


def _checked(reader: TokenSession) -> NDArray[np.float32]:
    """Return the logits of the next token, [vocabulary].

    Raises:
        CheckpointError: They are not finite.
    """
    logits = reader.logits()
    if not np.isfinite(logits).all():
        raise CheckpointError("the guard's model gave non-finite logits; its weights are damaged")
    return logits


def _softmax(logits: NDArray[np.float32]) -> list[float]:
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    return [float(weight) for weight in weights / weights.sum()]
