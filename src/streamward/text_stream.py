"""A growing text as token ids: only the unstable end is tokenised again."""

import codecs
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from streamward.schema import Span
from streamward.tokenizer import GuardTokenizer, TokenizedText, clean_text

_UNSETTLED_WORDS = 3  # pre-tokens at the end that later text may still change: contractions look ahead three characters


class Edit(NamedTuple):
    """How the tokens of a text change: keep the first ones, drop the others, append new ones."""

    keep: int
    new_ids: list[int]
    new_spans: list[Span]


class TextStream:
    """Tokens of a text that arrives in pieces, cut anywhere.

    Whatever the cuts, the tokens at the end are those of the whole text. Pre-tokenizers of byte-level BPE match from
    left to right and never look back, so what lies before a settled boundary between pre-tokens stays as it is.
    A feed costs what its unsettled end costs, however long the text.
    """

    def __init__(self, tokenizer: GuardTokenizer) -> None:
        """Start with an empty text."""
        self.ids: list[int] = []
        """Ids of the text so far. Read only."""
        self.spans: list[Span] = []
        """Characters of each id. Read only."""
        self.num_chars = 0
        """Characters so far."""
        self._tokenizer = tokenizer
        self._tail = ""  # text whose tokens may still change
        self._tail_start = 0  # index of its first character
        self._tail_token = 0  # index of its first token
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._surrogate = ""  # first half of a pair
        self._id_bytes = b""  # of a character that token ids have begun

    def feed(self, piece: str | bytes) -> Edit:
        """Append text, or UTF-8 bytes that may end inside a character."""
        if isinstance(piece, bytes):
            text = self._decoder.decode(piece)
        else:
            text = self._decoder.decode(b"", final=True) + self._join_surrogates(piece)
        return self._append(text)

    def feed_ids(self, ids: Sequence[int]) -> Edit:
        """Append tokens as they are. What was fed as text before is settled by that.

        Raises:
            InputError: An id is out of range; nothing was appended.
        """
        pieces = [self._tokenizer.token_bytes(token_id) for token_id in ids]
        before = self._append(self._pending_text())
        spans: list[Span] = []
        for piece in pieces:
            text, self._id_bytes = _decode_prefix(self._id_bytes + piece)
            start = self.num_chars
            self.num_chars += len(text)
            end = self.num_chars + bool(self._id_bytes)
            spans.append(Span(start, max(end, start + 1)))
        return self._append_settled(before, ids, spans)

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """Return what tokens say.

        Raises:
            InputError: An id is out of range.
        """
        return b"".join(self._tokenizer.token_bytes(token_id) for token_id in ids)

    def feed_frame(self, ids: Sequence[int]) -> Edit:
        """Append tokens of the template's own, which cover no characters. What was fed before is settled by that."""
        before = self.finish()
        return self._append_settled(before, ids, [Span(self.num_chars, self.num_chars)] * len(ids))

    def finish(self) -> Edit:
        """Take what is half a character for U+FFFD. The text may still grow afterwards."""
        if self._id_bytes:
            self._flush_ids()
        return self._append(self._pending_text())

    def _pending_text(self) -> str:
        """Take out the character that text has begun."""
        text = self._decoder.decode(b"", final=True) + clean_text(self._surrogate)
        self._surrogate = ""
        return text

    def _join_surrogates(self, piece: str) -> str:
        piece = self._surrogate + piece
        self._surrogate = piece[-1] if piece and "\ud800" <= piece[-1] <= "\udbff" else ""
        return clean_text(piece[: len(piece) - len(self._surrogate)])

    def _append(self, text: str) -> Edit:
        if not text:
            return Edit(len(self.ids), [], [])
        if self._id_bytes:
            self._flush_ids()
        self._tail += text
        self.num_chars += len(text)
        encoded = self._tokenizer.encode(self._tail)
        old = self.ids[self._tail_token :]
        same = _common_prefix(old, encoded.ids)
        keep = self._tail_token + same
        spans = [Span(start + self._tail_start, end + self._tail_start) for start, end in encoded.spans]
        self.ids[keep:] = encoded.ids[same:]
        self.spans[self._tail_token :] = spans
        self._settle(encoded)
        return Edit(keep, encoded.ids[same:], spans[same:])

    def _append_settled(self, before: Edit, ids: Sequence[int], spans: list[Span]) -> Edit:
        self.ids += ids
        self.spans += spans
        self._settle_all()
        return Edit(before.keep, before.new_ids + list(ids), before.new_spans + spans)

    def _flush_ids(self) -> None:
        """Take the character that token ids have begun for a whole one; their spans count it already."""
        self._id_bytes = b""
        self.num_chars += 1
        self._settle_all()

    def _settle(self, encoded: TokenizedText) -> None:
        """Move the start of the tail to the last boundary that nothing to come can change."""
        token = _settled_tokens(self._tail, encoded)
        if token:
            start = encoded.spans[token].start
            self._tail = self._tail[start:]
            self._tail_start += start
            self._tail_token += token

    def _settle_all(self) -> None:
        self._tail = ""
        self._tail_start = self.num_chars
        self._tail_token = len(self.ids)


def _settled_tokens(text: str, encoded: TokenizedText) -> int:
    """Return how many tokens are settled: those before the last safe boundary between pre-tokens."""
    num_words_after = 0
    end = len(text)
    for token in range(len(encoded.ids) - 1, 0, -1):
        if encoded.words[token] == encoded.words[token - 1]:
            continue
        start = encoded.spans[token].start
        num_words_after += not text[start:end].isspace()
        end = start
        if num_words_after >= _UNSETTLED_WORDS and encoded.spans[token - 1].end == start and _is_safe_cut(text, start):
            return token
    return 0


def _is_safe_cut(text: str, start: int) -> bool:
    """Whether text can be split here: not inside white space, not before a character that composes with the last."""
    before, after = text[start - 1], text[start]
    if before.isspace() and after.isspace():
        return False
    is_jamo = "\u1160" <= after <= "\u11ff" or "\ud7b0" <= after <= "\ud7ff"
    return not is_jamo and not unicodedata.category(after).startswith("M")


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def _decode_prefix(data: bytes) -> tuple[str, bytes]:
    """Decode as far as whole characters go; return the bytes of one that has begun."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    return text, decoder.getstate()[0]
