"""A labelled row as token ids with a target for the prompt and one for each response token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from streamward.data.jsonl import Sample
from streamward.errors import ConfigError
from streamward.schema import Category, Message, RiskLevel, Role, Side
from streamward.tokenizer import GuardTokenizer, clean_text

FIRST_HALF_WEIGHT = 0.25  # of the early tokens of an unsafe response whose onset nobody marked
_MIN_ROOM_TOKENS = 8  # that a prompt must leave for its response
Onset = Literal["second-half", "ramp"]


@dataclass(frozen=True, slots=True)
class TokenTarget:
    """The labels and weight of one position.

    Attributes:
        side: Whose heads are read.
        position: Index of the token in the example.
        level: The right level.
        weight: Share of this position in the row's loss; a side's weights sum to 1.
        categories: Acceptable categories; empty means unknown.
    """

    side: Side
    position: int
    level: RiskLevel
    weight: float
    categories: tuple[Category, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one row and what to learn from it."""

    ids: tuple[int, ...]
    targets: tuple[TokenTarget, ...]
    weight: float
    source: str


class Turns(NamedTuple):
    """A row as the guard's template renders it.

    Attributes:
        ids: Without the response.
        closing: Position of the prompt's closing token.
        response: The response's tokens as (id, first character).
    """

    ids: list[int]
    closing: int
    response: list[tuple[int, int]]


def encode_turns(tokenizer: GuardTokenizer, sample: Sample) -> Turns:
    """Encode a row as it is encoded when serving.

    Raises:
        ConfigError: The template closes no prompt.
    """
    messages = [*sample.history, Message(Role.USER, sample.prompt)]
    rendered = tokenizer.render(messages, is_open=sample.response is not None)
    if rendered.prompt_position is None:
        raise ConfigError("the chat template closes the prompt with no special token; there is nothing to read")
    response: list[tuple[int, int]] = []
    if sample.response is not None:
        text = tokenizer.encode(clean_text(sample.response))
        response = [(token_id, span.start) for token_id, span in zip(text.ids, text.spans, strict=True)]
    return Turns(rendered.ids, rendered.prompt_position, response)


def make_example(
    tokenizer: GuardTokenizer,
    sample: Sample,
    *,
    weight: float,
    max_tokens: int,
    unmarked_onset: Onset = "second-half",
    safe_weight: float = 1.0,
) -> Example | None:
    """Turn a row into an example; None if it carries no label or nothing of it fits.

    Args:
        tokenizer: Tokenizer of the base.
        sample: The row.
        weight: What it counts in the loss.
        max_tokens: Most tokens; a longer row keeps its beginning.
        unmarked_onset: What the tokens of an unsafe response count where nobody marked its onset; see
            `StreamTrainConfig.unmarked_onset`.
        safe_weight: Factor on a side labelled Safe.
    """
    ids, closing, response = encode_turns(tokenizer, sample)
    targets: list[TokenTarget] = []
    if closing >= max_tokens - _MIN_ROOM_TOKENS:  # keep the beginning of a long prompt, and its closing token
        kept = min(closing, max_tokens - 1)
        ids = [*ids[:kept], ids[closing]]
        closing, response = kept, []
    if sample.prompt_label is not None:
        is_safe = sample.prompt_label is RiskLevel.SAFE
        categories = () if is_safe else sample.categories
        targets.append(
            TokenTarget(Side.PROMPT, closing, sample.prompt_label, safe_weight if is_safe else 1.0, categories)
        )
    response = response[: max(0, max_tokens - len(ids))]
    if sample.response_label is not None and response:
        share = safe_weight if sample.response_label is RiskLevel.SAFE else 1.0
        targets += _response_targets(sample, response, offset=len(ids), unmarked_onset=unmarked_onset, share=share)
        ids = ids + [token_id for token_id, _ in response]
    else:
        ids = ids[: closing + 1]
    if not targets:
        return None
    return Example(tuple(ids), tuple(targets), weight, sample.source)


def marked_onset(sample: Sample) -> int | None:
    """Return the first harmful character of a response, where somebody marked it."""
    if sample.unsafe_start is None and sample.spans:
        return sample.spans[0].start
    return sample.unsafe_start


def _response_targets(
    sample: Sample, response: Sequence[tuple[int, int]], *, offset: int, unmarked_onset: Onset, share: float
) -> list[TokenTarget]:
    assert sample.response_label is not None
    onset = marked_onset(sample)
    is_safe = sample.response_label is RiskLevel.SAFE
    labels: list[tuple[RiskLevel, float]] = []
    for index, (_, char) in enumerate(response):
        if is_safe:
            labels.append((RiskLevel.SAFE, 1.0))
        elif onset is not None:
            labels.append((sample.response_label if char >= onset else RiskLevel.SAFE, 1.0))
        else:
            labels.append((sample.response_label, _unmarked_weight(index, len(response), unmarked_onset)))
    total = sum(weight for _, weight in labels) / share
    known = tuple(category for category in sample.categories if category is not Category.JAILBREAK)
    return [
        TokenTarget(
            Side.RESPONSE,
            offset + index,
            level,
            weight / total,
            () if level is RiskLevel.SAFE else known,
        )
        for index, (level, weight) in enumerate(labels)
    ]


def _unmarked_weight(index: int, length: int, onset: Onset) -> float:
    if onset == "ramp":
        return ((index + 1) / length) ** 2
    return 1.0 if index * 2 >= length else FIRST_HALF_WEIGHT
