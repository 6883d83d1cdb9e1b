"""A Gen guard on this machine: scores the label words instead of generating freely."""

# Shapes: t new tokens; C capacity of the cache; D hidden size; H query heads; K key/value heads; d head size.

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from streamward.errors import CheckpointError, ContextLengthError
from streamward.generative.judgement import GenJudgement
from streamward.generative.parsing import NO_CATEGORY
from streamward.guard_call import current_call
from streamward.model.attention import attend
from streamward.model.guard_model import CausalLM
from streamward.schema import Category, Message, RiskLevel, Role
from streamward.tokenizer import GuardTokenizer, Rendered

_OVERLAP_SHARE = 4  # a quarter of a window is read again in the next
_CUT_TOKENS = 8  # that the cut ends of a window may take more than they did within the text
_RESPONSE_CATEGORIES = [category for category in Category if category is not Category.JAILBREAK]
Paths = Mapping[str, Sequence[int]]  # token ids by word


class LocalGenGuard:
    """Judges the last message of a conversation with the checkpoint's own template. Thread-safe: one window at a time.

    The conversation is read once; behind it `Safety: ` is forced and the words that can follow are scored, then
    `Categories: ` and `Refusal: ` likewise. The word chosen is always that of greedy generation among the allowed
    ones: where words share their first tokens, the best next token is taken at each step. The probability of a level
    is the product over its tokens, each normalised over the tokens allowed at its step; so the level chosen is the
    most probable one unless levels share their first token, when greedy generation may end elsewhere.
    """

    def __init__(self, model: CausalLM, tokenizer: GuardTokenizer) -> None:
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
            with self._lock:  # for a window only: a long text does not keep the others waiting
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
        max_positions = self._model.decoder.config.max_positions
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

    @torch.inference_mode()
    def _judge_rendered(self, rendered: Rendered, role: Role) -> GenJudgement:
        reader = _Reader(self._model, rendered.ids, capacity=len(rendered.ids) + self._num_answer_tokens)
        probabilities = _score(reader, self._levels)
        level = RiskLevel(_walk(reader, self._levels))
        is_safe = level is RiskLevel.SAFE
        word = _walk(reader, self._no_category if is_safe else self._categories[role])
        categories = () if is_safe else (Category(word),)
        refusal = _walk(reader, self._refusals) == "Yes" if role is Role.ASSISTANT else None
        return GenJudgement(level, {each: probabilities[each] for each in RiskLevel}, categories, refusal)


def _walk(reader: "_Reader", paths: Paths) -> str:
    """Read the word of greedy generation among some, and return it."""
    depth = 0
    while len(paths) > 1:
        branches = _branches(paths, depth)
        logits = reader.logits() if len(branches) > 1 else None
        token = next(iter(branches)) if logits is None else max(branches, key=lambda each: float(logits[each]))
        reader.read([token])
        paths, depth = branches[token], depth + 1
    ((word, path),) = paths.items()
    reader.read(path[depth:])
    return word


def _score(reader: "_Reader", paths: Paths) -> dict[str, float]:
    """Return the probability of each word; they sum to 1. The reader stands where it stood."""
    shares: dict[str, float] = {}
    _add_shares(reader, paths, 0, 1.0, shares)
    return shares


def _add_shares(reader: "_Reader", paths: Paths, depth: int, share: float, shares: dict[str, float]) -> None:
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
    parts = [1.0] if len(branches) == 1 else reader.logits()[list(branches)].double().softmax(dim=0).tolist()
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


class _Reader:
    """One sequence with its keys and values; tokens are read when their successors are asked for."""

    def __init__(self, model: CausalLM, ids: Sequence[int], *, capacity: int) -> None:
        self._model = model
        self._ids = list(ids)
        self._capacity = capacity
        self._keys_KCd: list[Tensor] = []
        self._values_KCd: list[Tensor] = []
        self._num_cached = 0

    @property
    def length(self) -> int:
        """Tokens so far, cached or not."""
        return len(self._ids)

    def read(self, ids: Sequence[int]) -> None:
        """Append tokens."""
        self._ids += ids

    def truncate(self, length: int) -> None:
        """Drop tokens from `length` on."""
        del self._ids[length:]
        self._num_cached = min(self._num_cached, length)

    def logits(self) -> Tensor:
        """Return the logits of the next token, [vocabulary].

        Raises:
            CheckpointError: They are non-finite.
        """
        self._num_cached = min(self._num_cached, self.length - 1)
        device = self._model.decoder.embed.weight.device
        hidden_tD: Tensor = self._model.decoder(
            torch.tensor(self._ids[self._num_cached :], device=device),
            torch.arange(self._num_cached, self.length, device=device),
            self._attend,
        )
        self._num_cached = self.length
        logits = self._model.logits(hidden_tD[-1:])[0]
        if not bool(torch.isfinite(logits).all()):
            raise CheckpointError("the guard's model gave non-finite logits; its weights are damaged")
        return logits

    def _attend(self, layer: int, q_tHd: Tensor, k_tKd: Tensor, v_tKd: Tensor) -> Tensor:
        if layer == len(self._keys_KCd):  # the first pass
            _, num_kv_heads, head_dim = k_tKd.shape
            self._keys_KCd.append(k_tKd.new_empty(num_kv_heads, self._capacity, head_dim))
            self._values_KCd.append(v_tKd.new_empty(num_kv_heads, self._capacity, head_dim))
        keys_KCd, values_KCd = self._keys_KCd[layer], self._values_KCd[layer]
        keys_KCd[:, self._num_cached : self.length] = k_tKd.transpose(0, 1)
        values_KCd[:, self._num_cached : self.length] = v_tKd.transpose(0, 1)
        return attend(q_tHd, keys_KCd[:, : self.length], values_KCd[:, : self.length]).flatten(1)
