"""A growing text as token ids: only the unstable end is tokenised again."""

import codecs
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

from streamward.errors import InputError
from streamward.schema import Span
from streamward.tokenizer import GuardTokenizer, TokenizedText, clean_text

_UNSETTLED_WORDS = 3  # pre-tokens at the end that later text may still change: contractions look ahead three characters
_UNSETTLED_TOKENS = 32  # tokens of an endless pre-token that are encoded again; doubled if too few
_AGREEING_TOKENS = 8  # tokens that must come out as before, so that the text before them is settled
_SEARCHED_TOKENS = 256  # tokens that are searched for a place where these begin
_MAX_UNSETTLED_CHARS = 1024  # without one


class Edit(NamedTuple):
    """A change of a text's tokens: keep the first ones, drop the others, append new ones."""

    keep: int
    new_ids: list[int]
    new_spans: list[Span]


class _Resumption(NamedTuple):
    """A place at which encoding may begin: a character of the tail, and the index of its token."""

    char: int
    token: int


class _Boundary(NamedTuple):
    """A boundary that nothing behind the first `num_chars` characters changes: its character, and its token."""

    num_chars: int
    char: int
    token: int


class TextStream:
    """Tokens of a text that arrives in pieces, cut anywhere.

    Whatever the cuts, the tokens at the end are those of the whole text. Pre-tokenizers of byte-level BPE match from
    left to right and never look back, so what lies before a settled boundary between pre-tokens stays as it is.
    Within a pre-token, BPE is local: tokens are those of the whole if each two neighbours are those of their own text.
    So an endless one is encoded from a token near its end on, and that is right if the first of them come out again.
    A feed costs what its unsettled end costs, however long the text.

    The limit: where 1,024 characters offer no place to begin at, as only combining marks in a row do, or line breaks
    behind punctuation, the tokens so far stay as they are, and may be others than those of the whole text.
    """

    def __init__(self, tokenizer: GuardTokenizer) -> None:
        """Start with an empty text."""
        self.ids: list[int] = []
        """Ids of the text so far. Read only."""
        self.spans: list[Span] = []
        """Characters of each id. Read only."""
        self.num_chars = 0
        """Characters so far."""
        self.on_text: Callable[[str], object] | None = None
        """Is given the characters that are added, as they are counted."""
        self._tokenizer = tokenizer
        self._tail = ""  # text whose tokens may still change
        self._tail_start = 0  # index of its first character
        self._tail_token = 0  # index of its first token
        self._resumption: _Resumption | None = None  # set within an endless pre-token
        self._lookback = _UNSETTLED_TOKENS
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._surrogate = ""  # first half of a surrogate pair
        self._id_bytes = b""  # bytes of a character that token ids have begun
        self._pieces: list[str] = []  # pieces of the text behind the last token ids
        self._piece_starts: list[int] = []
        self._boundaries = [_Boundary(0, 0, 0)]  # ascending in all three fields

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
            self._tell(text)
            end = self.num_chars + bool(self._id_bytes)
            spans.append(Span(start, max(end, start + 1)))
        edit = self._append_settled(before, ids, spans)
        self._forget_text()
        return edit

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """Return what tokens say.

        Raises:
            InputError: An id is out of range.
        """
        return b"".join(self._tokenizer.token_bytes(token_id) for token_id in ids)

    def feed_template_tokens(self, ids: Sequence[int]) -> Edit:
        """Append tokens of the template's own, which cover no characters. What was fed before is settled by that."""
        before = self.finish()
        return self._append_settled(before, ids, [Span(self.num_chars, self.num_chars)] * len(ids))

    def truncate(self, num_chars: int) -> Edit:
        """Keep the first characters only. The tokens become those of the text that is left, and the text may go on.

        Half a character at the end is forgotten.

        Raises:
            InputError: There are fewer characters, or the place is before the end of tokens that were fed as ids.
        """
        if not 0 <= num_chars <= self.num_chars:
            raise InputError(f"num_chars is {num_chars}; the text has {self.num_chars} characters")
        if num_chars < self._boundaries[0].num_chars:
            raise InputError(f"num_chars is {num_chars}; text that was fed as token ids ends behind it")
        self._decoder.reset()
        self._surrogate, self._id_bytes = "", b""
        del self._boundaries[bisect_right(self._boundaries, num_chars, key=lambda each: each.num_chars) :]
        _, char, token = self._boundaries[-1]
        self._cut_pieces(num_chars)
        self._tail, self._tail_start, self._tail_token = self._text_from(char), char, token
        self._resumption, self._lookback, self.num_chars = None, _UNSETTLED_TOKENS, num_chars
        return self._replace(self._tokenizer.encode(self._tail), _Resumption(0, token))

    def _cut_pieces(self, num_chars: int) -> None:
        while self._pieces and self._piece_starts[-1] >= num_chars:
            self._pieces.pop()
            self._piece_starts.pop()
        if self._pieces:
            self._pieces[-1] = self._pieces[-1][: num_chars - self._piece_starts[-1]]

    def _text_from(self, char: int) -> str:
        first = max(0, bisect_right(self._piece_starts, char) - 1)
        text = "".join(self._pieces[first:])
        return text[char - self._piece_starts[first] :] if text else ""

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
        self._pieces.append(text)
        self._piece_starts.append(self.num_chars)
        self.num_chars += len(text)
        self._tell(text)
        return self._replace(*self._encode_tail())

    def _replace(self, encoded: TokenizedText, at: _Resumption) -> Edit:
        """Put the tokens of the tail, from a place on, in place of those that were there."""
        same = _common_prefix(self.ids[at.token :], encoded.ids)
        keep = at.token + same
        offset = self._tail_start + at.char
        spans = [Span(start + offset, end + offset) for start, end in encoded.spans]
        self.ids[keep:] = encoded.ids[same:]
        self.spans[at.token :] = spans
        self._settle(encoded, at)
        self._note_boundary()
        return Edit(keep, encoded.ids[same:], spans[same:])

    def _encode_tail(self) -> tuple[TokenizedText, _Resumption]:
        """Return tokens of the tail, and where they begin."""
        at = self._resumption
        if at is not None:
            encoded = self._tokenizer.encode(self._tail[at.char :])
            expected = self.ids[at.token : at.token + _AGREEING_TOKENS]
            if encoded.ids[:_AGREEING_TOKENS] == expected and _is_one_word(encoded, 0):
                return encoded, at
            self._lookback *= 2
        return self._tokenizer.encode(self._tail), _Resumption(0, self._tail_token)

    def _append_settled(self, before: Edit, ids: Sequence[int], spans: list[Span]) -> Edit:
        self.ids += ids
        self.spans += spans
        self._settle_all()
        self._note_boundary()
        return Edit(before.keep, before.new_ids + list(ids), before.new_spans + spans)

    def _flush_ids(self) -> None:
        """Take the character that token ids have begun for a whole one; their spans count it already."""
        self._id_bytes = b""
        self.num_chars += 1
        self._tell("\ufffd")
        self._settle_all()
        self._forget_text()

    def _forget_text(self) -> None:
        """Nothing before this place is truncated any more: it was fed as token ids."""
        self._pieces.clear()
        self._piece_starts.clear()
        self._boundaries = [_Boundary(self.num_chars, self._tail_start, self._tail_token)]

    def _note_boundary(self) -> None:
        _, char, token = self._boundaries[-1]
        if (char, token) != (self._tail_start, self._tail_token):
            self._boundaries.append(_Boundary(self.num_chars, self._tail_start, self._tail_token))

    def _tell(self, text: str) -> None:
        if self.on_text is not None:
            self.on_text(text)

    def _settle(self, encoded: TokenizedText, at: _Resumption) -> None:
        """Move the start of the tail to the last boundary that nothing to come can change, or come near it."""
        text = self._tail[at.char :]
        if token := _settled_tokens(text, encoded):
            self._begin_tail(at.char + encoded.spans[token].start, at.token + token)
        elif token := _resumable_token(text, encoded, len(encoded.ids) - self._lookback):
            self._resumption = _Resumption(at.char + encoded.spans[token].start, at.token + token)
        elif len(text) > _MAX_UNSETTLED_CHARS and len(encoded.ids) > 2 * self._lookback:
            self._settle_all()
        else:
            self._resumption = at if at.char else None

    def _settle_all(self) -> None:
        self._begin_tail(len(self._tail), len(self.ids))
        self._tail_start = self.num_chars

    def _begin_tail(self, char: int, token: int) -> None:
        self._tail = self._tail[char:]
        self._tail_start += char
        self._tail_token = token
        self._resumption, self._lookback = None, _UNSETTLED_TOKENS


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


def _resumable_token(text: str, encoded: TokenizedText, last: int) -> int:
    """Return the last token, up to one, at which a pre-token's tokens can be encoded alone; 0 if there is none.

    White space behind anything else would be another pre-token there.
    """
    for token in range(last, max(0, last - _SEARCHED_TOKENS), -1):
        start = encoded.spans[token].start
        is_inside = encoded.words[token] == encoded.words[token - 1] and _is_one_word(encoded, token)
        if is_inside and encoded.spans[token - 1].end == start and not _composes(text[start]):
            first = encoded.words.index(encoded.words[token])
            if not text[start].isspace() or text[encoded.spans[first].start : start].isspace():
                return token
    return 0


def _is_one_word(encoded: TokenizedText, token: int) -> bool:
    """Return whether the tokens that must agree, from one on, are of one pre-token."""
    last = token + _AGREEING_TOKENS - 1
    return last < len(encoded.ids) and encoded.words[last] == encoded.words[token]


def _is_safe_cut(text: str, start: int) -> bool:
    """Return whether text can be split here: neither inside white space nor before a composing character."""
    return not (text[start - 1].isspace() and text[start].isspace()) and not _composes(text[start])


def _composes(character: str) -> bool:
    """Return whether normalisation may join a character to the one before it, or change their order."""
    is_jamo = "\u1160" <= character <= "\u11ff" or "\ud7b0" <= character <= "\ud7ff"
    return is_jamo or unicodedata.category(character).startswith("M")


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
