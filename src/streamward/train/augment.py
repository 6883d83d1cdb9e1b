"""More rows out of labelled ones: texts cut at a random character, and long texts in windows."""

import dataclasses
import random
from collections.abc import Iterator

from streamward.data.jsonl import Sample
from streamward.schema import RiskLevel, Span
from streamward.tokenizer import GuardTokenizer, clean_text
from streamward.train.examples import encode_turns, marked_onset

_OVERLAP_SHARE = 4  # a quarter of a window is read again in the next, as when serving


def cut_short(sample: Sample, rng: random.Random) -> Sample | None:
    """Cut a row at a random character; None where the label of the beginning is unknown.

    A response is cut where it is safe or its onset is marked (before the onset its label becomes Safe); else a safe
    prompt is cut and a response after it dropped.
    """
    if sample.response and sample.response_label is not None:
        onset = marked_onset(sample)
        if sample.response_label is not RiskLevel.SAFE and onset is None:
            return None
        end = rng.randint(1, len(sample.response))
        return dataclasses.replace(_part(sample, 0, end), prompt_label=None)
    if sample.prompt and sample.prompt_label is RiskLevel.SAFE:
        end = rng.randint(1, len(sample.prompt))
        return dataclasses.replace(sample, prompt=sample.prompt[:end], response=None, response_label=None, spans=None)
    return None


def windows(tokenizer: GuardTokenizer, sample: Sample, *, max_tokens: int) -> Iterator[Sample]:
    """Yield a row as often as its windows need; rows that fit, and those nobody knows the parts of, as they are.

    Args:
        tokenizer: Of the base.
        sample: The row.
        max_tokens: Most tokens of a window, its context included.
    """
    ids, closing, response = encode_turns(tokenizer, sample)
    if len(ids) + len(response) <= max_tokens:
        yield sample
    elif response and sample.response_label is not None and max_tokens - len(ids) > len(ids) // 2:
        if sample.response_label is not RiskLevel.SAFE and marked_onset(sample) is None:
            yield sample
            return
        starts = [char for _, char in response]
        for first, last in _slices(len(starts), max_tokens - len(ids)):
            end = starts[last] if last < len(starts) else len(sample.response or "")
            part = _part(sample, starts[first], end)
            yield part if first == 0 else dataclasses.replace(part, prompt_label=None)
    elif sample.prompt_label is RiskLevel.SAFE and closing >= max_tokens:
        text = tokenizer.encode(clean_text(sample.prompt))
        for first, last in _slices(len(text.ids), max(1, max_tokens - (len(ids) - len(text.ids)))):
            prompt = sample.prompt[text.spans[first].start : text.spans[last - 1].end]
            yield dataclasses.replace(sample, prompt=prompt, response=None, response_label=None, spans=None)
    else:
        yield sample


def _slices(length: int, size: int) -> Iterator[tuple[int, int]]:
    stride = max(1, size - size // _OVERLAP_SHARE)
    for first in range(0, max(1, length - size + stride), stride):
        yield first, min(length, first + size)


def _part(sample: Sample, start: int, end: int) -> Sample:
    """Cut a response that is safe or has a marked onset; the onset moves along."""
    assert sample.response is not None
    text, onset = sample.response[start:end], marked_onset(sample)
    if sample.response_label is RiskLevel.SAFE or onset is None:
        return dataclasses.replace(sample, response=text, spans=None)
    if onset >= end:
        return dataclasses.replace(sample, response=text, response_label=RiskLevel.SAFE, unsafe_start=None, spans=None)
    moved = max(0, onset - start)
    return dataclasses.replace(sample, response=text, unsafe_start=moved, spans=(Span(moved, len(text)),))
