"""A Gen guard on this machine: scores the label words instead of generating freely."""

# Shapes: t new tokens; H query heads; K key/value heads; d head size.

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from streamward.errors import CheckpointError, ContextLengthError
from streamward.generative.judgement import GenJudgement
from streamward.generative.parsing import NO_CATEGORY
from streamward.model.attention import attend
from streamward.model.guard_model import CausalLM
from streamward.schema import Category, Message, RiskLevel, Role
from streamward.tokenizer import GuardTokenizer, Rendered

_ANSWER_TOKENS = 64  # room for the three lines
_OVERLAP_SHARE = 4  # a quarter of a window is read again in the next
_PROMPT_CATEGORIES = tuple(Category)
_RESPONSE_CATEGORIES = tuple(category for category in Category if category is not Category.JAILBREAK)


class LocalGenGuard:
    """Judges the last message of a conversation with the checkpoint's own template. Thread-safe: one at a time.

    The conversation is read once; behind it `Safety: ` is forced and the words that can follow are scored, then
    `Categories: ` and `Refusal: ` likewise. The words chosen are those of greedy generation among the allowed ones:
    where words share their first tokens, the best next token is taken at each step. Probabilities are normalised over
    the allowed tokens of each step.
    """

    def __init__(self, model: CausalLM, tokenizer: GuardTokenizer) -> None:
        """Take a loaded checkpoint."""
        self._model = model
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    def judge(self, messages: Sequence[Message]) -> GenJudgement:
        """Judge the last message in the light of those before it.

        A conversation that does not fit loses its oldest turns; a last message that does not fit by itself is judged
        in overlapping windows, and the worst of them counts.

        Raises:
            InputError: The template refuses the conversation.
            ContextLengthError: Not even the template fits.
            CheckpointError: The model gives no numbers.
        """
        with self._lock:
            judgements = [self._judge_rendered(part, messages[-1].role) for part in self._windows(messages)]
        worst = max(judgements, key=lambda each: (each.risk_level.severity, 1 - each.probabilities[RiskLevel.SAFE]))
        return GenJudgement(
            worst.risk_level, worst.probabilities, worst.categories, worst.refusal, windows=len(judgements)
        )

    def close(self) -> None:
        """Nothing is held beyond the model."""

    def _windows(self, messages: Sequence[Message]) -> Iterator[Rendered]:
        limit = self._model.decoder.config.max_positions - _ANSWER_TOKENS
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
        size = limit - (len(rendered.ids) - len(spans)) - 8  # cut ends may tokenise into a few more
        if size < 1:
            raise ContextLengthError(f"the guard's template does not fit into its {limit + _ANSWER_TOKENS} positions")
        stride = max(1, size - size // _OVERLAP_SHARE)
        for start in range(0, len(spans), stride):
            part = spans[start : start + size]
            yield self._render([Message(role, text[part[0].start : part[-1].end])])
            if start + size >= len(spans):
                return

    def _render(self, turns: Sequence[Message]) -> Rendered:
        return self._tokenizer.render(turns, is_open=True)

    @torch.inference_mode()
    def _judge_rendered(self, rendered: Rendered, role: Role) -> GenJudgement:
        reader = _Reader(self._model, rendered.ids)
        levels = self._choose(reader, "Safety: ", list(RiskLevel))
        level = RiskLevel(levels.best)
        categories: tuple[Category, ...] = ()
        allowed = _RESPONSE_CATEGORIES if role is Role.ASSISTANT else _PROMPT_CATEGORIES
        if level is RiskLevel.SAFE:
            self._choose(reader, "\nCategories: ", [NO_CATEGORY])
        else:
            categories = (Category(self._choose(reader, "\nCategories: ", list(allowed)).best),)
        refusal = None
        if role is Role.ASSISTANT:
            refusal = self._choose(reader, "\nRefusal: ", ["Yes", "No"]).best == "Yes"
        probabilities = {each: levels.probabilities[each] for each in RiskLevel}
        return GenJudgement(level, probabilities, categories, refusal)

    def _choose(self, reader: "_Reader", lead: str, words: Sequence[str]) -> "_Choice":
        """Force `lead`, score the words that may follow, and leave the reader behind the best of them."""
        paths = {word: self._tokenizer.encode(lead + word).ids for word in words}
        probabilities: dict[str, float] = {}
        best = _walk(reader, paths, 0, 1.0, probabilities)
        reader.read(paths[best])
        return _Choice(best, probabilities)


@dataclass(frozen=True, slots=True)
class _Choice:
    best: str
    probabilities: Mapping[str, float]


def _walk(
    reader: "_Reader", paths: Mapping[str, Sequence[int]], depth: int, share: float, probabilities: dict[str, float]
) -> str:
    """Score words that agree in their first `depth` tokens, and return the one a greedy walk ends at.

    Args:
        reader: Stands before the first token of the words; it does so again afterwards.
        paths: Token ids of each word; none begins with another.
        depth: Tokens they have in common, at least.
        share: Probability of these tokens.
        probabilities: Of each word; filled.
    """
    if len(paths) == 1:
        (word,) = paths
        probabilities[word] = share
        return word
    branches: dict[int, dict[str, Sequence[int]]] = {}
    for word, path in paths.items():
        branches.setdefault(path[depth], {})[word] = path
    if len(branches) == 1:
        return _walk(reader, paths, depth + 1, share, probabilities)
    start = reader.length
    common = next(iter(paths.values()))[:depth]
    logits = reader.next_logits(common)
    shares = logits[list(branches)].softmax(dim=-1).tolist()
    reader.truncate(start)
    found = {
        token: _walk(reader, own, depth + 1, share * part, probabilities)
        for (token, own), part in zip(branches.items(), shares, strict=True)
    }
    return found[max(zip(branches, shares, strict=True), key=lambda pair: pair[1])[0]]


@dataclass
class _Reader:
    """One sequence and its keys and values; tokens are read when their successors are asked for."""

    model: CausalLM
    ids: list[int]
    keys_KNd: list[Tensor] = field(default_factory=list)
    values_KNd: list[Tensor] = field(default_factory=list)
    num_cached: int = 0

    def __post_init__(self) -> None:
        self.ids = list(self.ids)

    @property
    def length(self) -> int:
        """Tokens so far, cached or not."""
        return len(self.ids)

    def read(self, ids: Sequence[int]) -> None:
        """Append tokens."""
        self.ids += ids

    def truncate(self, length: int) -> None:
        """Drop tokens from `length` on."""
        del self.ids[length:]
        self.num_cached = min(self.num_cached, length)

    def next_logits(self, ids: Sequence[int]) -> Tensor:
        """Append tokens and return the logits of what follows them, [vocabulary]."""
        self.ids += ids
        start = min(self.num_cached, len(self.ids) - 1)
        self.num_cached = start
        device = self.model.decoder.embed.weight.device
        hidden_TD: Tensor = self.model.decoder(
            torch.tensor(self.ids[start:], device=device),
            torch.arange(start, len(self.ids), device=device),
            self._attend,
        )
        self.num_cached = len(self.ids)
        logits = self.model.logits(hidden_TD[-1:])[0]
        if not bool(torch.isfinite(logits).all()):
            raise CheckpointError("the guard's model gave logits that are no numbers; its weights are damaged")
        return logits

    def _attend(self, layer: int, q_tHd: Tensor, k_tKd: Tensor, v_tKd: Tensor) -> Tensor:
        k_Ktd, v_Ktd = k_tKd.transpose(0, 1), v_tKd.transpose(0, 1)
        if layer == len(self.keys_KNd):
            self.keys_KNd.append(k_Ktd)
            self.values_KNd.append(v_Ktd)
        else:
            self.keys_KNd[layer] = torch.cat((self.keys_KNd[layer][:, : self.num_cached], k_Ktd), dim=1)
            self.values_KNd[layer] = torch.cat((self.values_KNd[layer][:, : self.num_cached], v_Ktd), dim=1)
        return attend(q_tHd, self.keys_KNd[layer], self.values_KNd[layer]).flatten(1)
