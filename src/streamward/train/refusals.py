"""Finds out whether an answer declines to help, by its wording: for English rows whose source does not say."""

import dataclasses
import re

from streamward.data.jsonl import Sample
from streamward.schema import RiskLevel

_OPENING_CHARS = 160
_PHRASES = re.compile(
    r"\bi(?:'m| am) (?:very |so |really )?sorry\b|\bi apologi[sz]e\b"
    r"|\bi (?:really |simply )?(?:can(?:not|'t| not)|won't|will not|must not|would not|am not able to|'m not able to"
    r"|am unable to|must (?:decline|refuse)|(?:have|need) to (?:decline|refuse))\b"
    r"|\bi'm (?:not able|unable|not going) to\b|\b(?:unable|not able) to (?:assist|help|provide|support|fulfil)"
    r"|\b(?:can(?:not|'t)|won't) (?:assist|help|provide|support|fulfil|engage|comply|condone|encourage)",
    re.IGNORECASE,
)


def with_refusal(sample: Sample) -> Sample:
    """Fill in whether an English answer refuses, where the row does not say and its wording leaves no doubt.

    A Safe answer that opens with the words of a refusal is one, unless what was asked for is Safe: people are sorry for
    many things. An answer without such words complies if it is harmful, or if what was asked for is Safe. Whatever else
    there is stays unknown.
    """
    if sample.refusal is not None or not sample.response or sample.language != "en" or sample.response_label is None:
        return sample
    text = sample.response.replace("\u2019", "'")
    is_safe, is_safe_to_ask = (label is RiskLevel.SAFE for label in (sample.response_label, sample.prompt_label))
    if _PHRASES.search(text[:_OPENING_CHARS]):
        return dataclasses.replace(sample, refusal=True) if is_safe and not is_safe_to_ask else sample
    if not _PHRASES.search(text) and (not is_safe or is_safe_to_ask):
        return dataclasses.replace(sample, refusal=False)
    return sample
