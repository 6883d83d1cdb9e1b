"""A labelled row as a Gen guard reads it: one trunk, and a branch for each side that is judged."""

# The instruction follows the conversation, so a row's prompt is read once for both judgements. What is common to both
# renderings is the trunk; a branch goes on with what only its side sees: the response, the instruction, the answer.

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from streamward.data.jsonl import Sample
from streamward.errors import ConfigError
from streamward.generative.parsing import NO_CATEGORY
from streamward.schema import Category, Message, RiskLevel, Role, Side
from streamward.tokenizer import GuardTokenizer, clean_text
from streamward.train.config import GenTrainConfig

_CONTEXT_SHARE = 2  # the context of a response takes at most half of a row


class Token(NamedTuple):
    """A token of the answer and what it counts in the loss."""

    token_id: int
    weight: float


@dataclass(frozen=True, slots=True)
class Branch:
    """One side's judgement.

    Attributes:
        ids: What follows the trunk, up to where the answer begins.
        answer: The answer's tokens.
        level: The right level; None where unknown.
        num_lead: Tokens of the answer before the one that decides about the level.
    """

    side: Side
    ids: tuple[int, ...]
    answer: tuple[Token, ...]
    level: RiskLevel | None
    num_lead: int


@dataclass(frozen=True, slots=True)
class GenExample:
    """One row: the ids both judgements begin with, and how each goes on."""

    trunk: tuple[int, ...]
    branches: tuple[Branch, ...]
    weight: float
    source: str

    @property
    def num_tokens(self) -> int:
        """Tokens read in training."""
        return len(self.trunk) + sum(len(branch.ids) + len(branch.answer) for branch in self.branches)


@dataclass(frozen=True, slots=True)
class RefusalWeights:
    """Weights of refusals and compliances, so that both kinds weigh the same over all rows."""

    yes: float = 1.0
    no: float = 1.0

    @classmethod
    def balanced(cls, samples: Sequence[Sample]) -> "RefusalWeights":
        """Weigh each kind by its rarity; neither counts more than four times what it would."""
        known = [sample.refusal for sample in samples if sample.refusal is not None and sample.response]
        num_yes = sum(known)
        num_no = len(known) - num_yes
        if not num_yes or not num_no:
            return cls()
        return cls(min(4.0, len(known) / (2 * num_yes)), min(4.0, len(known) / (2 * num_no)))


class AnswerWriter:
    """Writes the answer to a row in the very tokens a Gen guard is scored on."""

    def __init__(self, tokenizer: GuardTokenizer, config: GenTrainConfig, *, refusals: RefusalWeights) -> None:
        """Encode the label words.

        Raises:
            ConfigError: The template closes no turn, or the tokenizer cannot tell the levels apart.
        """
        turn = tokenizer.render([Message(Role.USER, "")], is_open=False)
        if turn.prompt_position is None:
            raise ConfigError("the chat template closes a turn with no special token; an answer would have no end")
        self._closing = turn.ids[turn.prompt_position]
        self._tokenizer = tokenizer
        self._config = config
        self._refusals = refusals
        self.levels = {level: self._encode(f"Safety: {level}") for level in RiskLevel}
        self.num_lead = _common(list(self.levels.values()))
        if len({ids[self.num_lead] for ids in self.levels.values()}) < len(RiskLevel):
            raise ConfigError("the base's tokenizer writes two risk levels with the same first token")

    @property
    def level_tokens(self) -> dict[RiskLevel, int]:
        """The token that decides about each level."""
        return {level: ids[self.num_lead] for level, ids in self.levels.items()}

    def write(self, sample: Sample, side: Side) -> list[Token]:
        """Return the answer; what the row does not say is there with weight 0, as context of what follows."""
        level = sample.prompt_label if side is Side.PROMPT else sample.response_label
        weight = 0.0 if level is None else self._config.safe_weight if level is RiskLevel.SAFE else 1.0
        named = level or RiskLevel.SAFE
        tokens = self._line("Safety: ", named, weight)
        category, is_known = _category(sample, side, named)
        tokens += self._line(
            "\nCategories: ", category, self._config.category_loss_weight * (weight if is_known else 0)
        )
        if side is Side.RESPONSE:
            refused = bool(sample.refusal)
            share = self._refusals.yes if refused else self._refusals.no
            known = 0.0 if sample.refusal is None else share
            tokens += self._line("\nRefusal: ", "Yes" if refused else "No", self._config.refusal_loss_weight * known)
        return [*tokens, Token(self._closing, self._config.frame_loss_weight)]

    def lead(self) -> list[Token]:
        """Return the answer up to where the level is decided, and one token that is not looked at."""
        return [Token(token_id, 0.0) for token_id in self.levels[RiskLevel.SAFE][: self.num_lead + 1]]

    def _line(self, lead: str, word: str, weight: float) -> list[Token]:
        ids = self._encode(lead + word)
        num_frame = len(self._encode(lead.rstrip(" ")))
        frame = self._config.frame_loss_weight
        return [Token(token_id, frame if index < num_frame else weight) for index, token_id in enumerate(ids)]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids


def make_gen_example(
    tokenizer: GuardTokenizer, sample: Sample, *, writer: AnswerWriter, weight: float, max_tokens: int
) -> GenExample | None:
    """Turn a row into an example; None if nothing about it is known.

    A longer row than `max_tokens` keeps its beginning.
    """
    sides = [Side.PROMPT] if sample.prompt and sample.prompt_label is not None else []
    if sample.response and (sample.response_label is not None or sample.refusal is not None):
        sides.append(Side.RESPONSE)
    return _example(tokenizer, sample, sides, writer=writer, weight=weight, max_tokens=max_tokens, is_training=True)


def make_question(
    tokenizer: GuardTokenizer, sample: Sample, sides: Sequence[Side], *, writer: AnswerWriter, max_tokens: int
) -> GenExample | None:
    """Turn a row into an example that asks for levels, without answers; None if no side has a text."""
    asked = [side for side in sides if (sample.prompt if side is Side.PROMPT else sample.response)]
    return _example(tokenizer, sample, asked, writer=writer, weight=1.0, max_tokens=max_tokens, is_training=False)


def _example(
    tokenizer: GuardTokenizer,
    sample: Sample,
    sides: Sequence[Side],
    *,
    writer: AnswerWriter,
    weight: float,
    max_tokens: int,
    is_training: bool,
) -> GenExample | None:
    if not sides:
        return None
    answers = [tuple(writer.write(sample, side) if is_training else writer.lead()) for side in sides]
    room = max(1, max_tokens - max(map(len, answers)))
    renderings = [_render(tokenizer, sample, side, room=room) for side in sides]
    shared = _common(renderings) if len(renderings) > 1 else 0
    levels = {Side.PROMPT: sample.prompt_label, Side.RESPONSE: sample.response_label}
    branches = tuple(
        Branch(side, tuple(ids[shared:]), answer, levels[side], writer.num_lead)
        for side, ids, answer in zip(sides, renderings, answers, strict=True)
    )
    return GenExample(tuple(renderings[0][:shared]), branches, weight, sample.source)


def _render(tokenizer: GuardTokenizer, sample: Sample, side: Side, *, room: int) -> list[int]:
    """Render one side's question; texts that do not fit keep their beginning, old turns go first."""
    prompt, response = clean_text(sample.prompt), clean_text(sample.response or "")
    turns = list(sample.history)
    while True:
        last = [] if side is Side.PROMPT else [Message(Role.ASSISTANT, response)]
        ids = tokenizer.render([*turns, Message(Role.USER, prompt), *last], is_open=True).ids
        excess = len(ids) - room
        if excess <= 0:
            return ids
        if turns:
            del turns[0]
            continue
        limit = len(tokenizer.encode(prompt).ids) - excess
        if side is Side.RESPONSE:
            limit = max(limit, room // _CONTEXT_SHARE)
        shorter = _beginning(tokenizer, prompt, limit)
        if shorter == prompt:
            shorter_response = _beginning(tokenizer, response, len(tokenizer.encode(response).ids) - excess)
            if shorter_response == response:
                raise ConfigError(f"max_tokens leaves {room} tokens for a row; the template alone needs more")
            response = shorter_response
        prompt = shorter


def _beginning(tokenizer: GuardTokenizer, text: str, num_tokens: int) -> str:
    encoded = tokenizer.encode(text)
    if num_tokens >= len(encoded.ids) or not encoded.ids:
        return text
    end = encoded.spans[num_tokens - 1].end if num_tokens > 0 else 0
    return text[: min(end, len(text) - 1)]  # a character may take several tokens


def _category(sample: Sample, side: Side, level: RiskLevel) -> tuple[str, bool]:
    """Return the category to answer and whether the row says so; of several one is drawn, always the same."""
    if level is RiskLevel.SAFE:
        return NO_CATEGORY, True
    allowed = [each for each in sample.categories if side is Side.PROMPT or each is not Category.JAILBREAK]
    choices = allowed or [each for each in Category if each is not Category.JAILBREAK]
    digest = hashlib.sha256(f"{sample.prompt}{sample.response}".encode(errors="surrogatepass")).digest()
    return choices[digest[0] % len(choices)].value, bool(allowed)


def _common(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many ids all sequences begin with in common."""
    return sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*sequences, strict=False)))
