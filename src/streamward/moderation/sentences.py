"""Finds the ends of sentences in a growing text."""

import re

_END = re.compile(
    r"[.!?\u2026\u061f\u06d4\u0964\u0965]+[\"'\u201d\u2019)\]\u00bb*_]*(?=\s)"  # with white space behind
    r"|[\u3002\uff01\uff1f\uff0e\uff61\n]"  # Chinese and Japanese, and line breaks: without
)


def sentence_ends(text: str) -> list[int]:
    """Return the index behind each sentence's last character, in order.

    A full stop ends a sentence once white space follows, a full-width one and a line break at once. What comes behind
    the last index is a sentence that has begun. Text that is appended changes no index, and adds more.
    """
    return [found.end() for found in _END.finditer(text)]
