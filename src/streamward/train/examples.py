"""A labelled row as token ids with a target for the prompt and one for each response token."""

from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer

from streamward.data.jsonl import Sample
from streamward.errors import ConfigError
from streamward.schema import Category, RiskLevel, Side

FIRST_HALF_WEIGHT = 0.25  # of the early tokens of an unsafe response whose onset nobody marked
Onset = Literal["second-half", "ramp"]


@dataclass(frozen=True, slots=True)
class Target:
    """What one position should say.

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
    targets: tuple[Target, ...]
    weight: float
    source: str


def encode_turns(tokenizer: Tokenizer, sample: Sample) -> tuple[list[int], int, list[tuple[int, int]]]:
    """Encode a row as the embedded template renders it.

    Returns:
        The ids without the response, the position of the prompt's closing token, and the response's tokens as
        (id, first character).
    """
    start, end = _marker(tokenizer, "<|im_start|>"), _marker(tokenizer, "<|im_end|>")
    newline = tokenizer.encode("\n").ids
    ids: list[int] = []
    closing = 0
    for role, text in (*((turn.role.value, turn.content) for turn in sample.history), ("user", sample.prompt)):
        ids += [start, *tokenizer.encode(f"{role}\n{text}").ids, end]
        closing = len(ids) - 1
        ids += newline
    if sample.response is None:
        return ids, closing, []
    header = "assistant\n"
    encoding = tokenizer.encode(header + sample.response)
    ids.append(start)
    response: list[tuple[int, int]] = []
    for token_id, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
        if last <= len(header):
            ids.append(token_id)
        else:
            response.append((token_id, first - len(header)))
    return ids, closing, response


def _marker(tokenizer: Tokenizer, marker: str) -> int:
    token_id = tokenizer.token_to_id(marker)
    if token_id is None:
        raise ConfigError(f"the base's tokenizer lacks {marker}; only bases with ChatML markers can be trained")
    return token_id


def make_example(
    tokenizer: Tokenizer, sample: Sample, *, weight: float, max_tokens: int, unmarked_onset: Onset = "second-half"
) -> Example | None:
    """Turn a row into an example; None if it carries no label or nothing of it fits.

    Args:
        tokenizer: Of the base.
        sample: The row.
        weight: What it counts in the loss.
        max_tokens: Most tokens; a longer row keeps its beginning.
        unmarked_onset: What the tokens of an unsafe response count where nobody marked its onset; see
            `StreamTrainConfig.unmarked_onset`.
    """
    ids, closing, response = encode_turns(tokenizer, sample)
    targets: list[Target] = []
    if closing >= max_tokens - 8:  # keep the beginning of a long prompt, and its closing token
        kept = min(closing, max_tokens - 1)
        ids = [*ids[:kept], ids[closing]]
        closing, response = kept, []
    if sample.prompt_label is not None:
        categories = sample.categories if sample.prompt_label is not RiskLevel.SAFE else ()
        targets.append(Target(Side.PROMPT, closing, sample.prompt_label, 1.0, categories))
    response = response[: max(0, max_tokens - len(ids))]
    if sample.response_label is not None and response:
        targets += _response_targets(sample, response, offset=len(ids), unmarked_onset=unmarked_onset)
        ids = ids + [token_id for token_id, _ in response]
    else:
        ids = ids[: closing + 1]
    if not targets:
        return None
    return Example(tuple(ids), tuple(targets), weight, sample.source)


def _response_targets(
    sample: Sample, response: list[tuple[int, int]], *, offset: int, unmarked_onset: Onset
) -> list[Target]:
    assert sample.response_label is not None
    onset = sample.unsafe_start
    if onset is None and sample.spans:
        onset = sample.spans[0].start
    labels: list[tuple[RiskLevel, float]] = []
    for index, (_, char) in enumerate(response):
        if sample.response_label is RiskLevel.SAFE:
            labels.append((RiskLevel.SAFE, 1.0))
        elif onset is not None:
            labels.append((sample.response_label if char >= onset else RiskLevel.SAFE, 1.0))
        else:
            labels.append((sample.response_label, _unmarked_weight(index, len(response), unmarked_onset)))
    total = sum(weight for _, weight in labels)
    known = tuple(category for category in sample.categories if category is not Category.JAILBREAK)
    return [
        Target(Side.RESPONSE, offset + index, level, weight / total, () if level is RiskLevel.SAFE else known)
        for index, (level, weight) in enumerate(labels)
    ]


def _unmarked_weight(index: int, length: int, onset: Onset) -> float:
    if onset == "ramp":
        return ((index + 1) / length) ** 2
    return 1.0 if index * 2 >= length else FIRST_HALF_WEIGHT
