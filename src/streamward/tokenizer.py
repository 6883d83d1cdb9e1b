"""Conversations to token ids through the checkpoint's own chat template; text is data, never control."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Encoding, Tokenizer

from streamward.errors import CheckpointError, InputError
from streamward.schema import Message, Role, Span

TOKENIZER_FILE = "tokenizer.json"
_MARK = re.compile("\ue000([0-9]+)([cr])\ue001")  # stands for a message's content or reasoning while rendering
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
_LONG_CHARS = 8192
_EMPTY_PROMPT = Message(Role.USER, "")


class TokenizedText(NamedTuple):
    """Ids of one text, the characters each covers, and the pre-token each belongs to."""

    ids: list[int]
    spans: list[Span]
    words: list[int | None]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation, up to where the assistant's answer would begin or to its end.

    Attributes:
        ids: Token ids.
        owners: Index of the message each token takes text from; None for the template's own.
        spans: Characters of that message's content; None for the template's own.
        prompt_position: Index of the token that closes the last user turn; None if there is no user turn.
    """

    ids: list[int]
    owners: list[int | None]
    spans: list[Span | None]
    prompt_position: int | None


@dataclass(frozen=True, slots=True)
class ReasoningFrame:
    """The tokens that the template writes around an assistant's reasoning."""

    before: tuple[int, ...]
    after: tuple[int, ...]


class GuardTokenizer:
    """A checkpoint's tokenizer and chat template.

    Text between two special tokens is encoded in one piece, so ids equal those of Hugging Face's `apply_chat_template`
    for ordinary text; special tokens are recognised in the template's own text only.
    """

    def __init__(self, tokenizer: Tokenizer, chat_template: str) -> None:
        """Take a tokenizer and a Jinja template in Hugging Face's dialect.

        Raises:
            CheckpointError: The template is broken.
        """
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
        self._special_ids = {
            token.content: token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.content
        }
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._plain = _without_added_tokens(tokenizer)
        # SentencePiece; else letters are bytes
        self._has_byte_tokens = bool(getattr(tokenizer.model, "byte_fallback", False))
        self._template = compile_template(chat_template)

    @classmethod
    def from_folder(cls, folder: Path) -> "GuardTokenizer":
        """Read `tokenizer.json` and the template, from `chat_template.jinja` or `tokenizer_config.json`.

        Raises:
            CheckpointError: A file is missing or broken.
        """
        path = folder / TOKENIZER_FILE
        if not path.exists():
            raise CheckpointError(f"{path} is missing")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for every defect of a file
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        return cls(tokenizer, _read_template(folder))

    def encode(self, text: str) -> TokenizedText:
        """Encode text as data: no special tokens, no template. Lone surrogates must be gone (`clean_text`)."""
        encoding: Encoding
        if len(text) < _LONG_CHARS:
            encoding = self._plain.encode(text, add_special_tokens=False)
        else:  # the batch call releases the GIL: a megabyte of text takes a second
            (encoding,) = self._plain.encode_batch([text], add_special_tokens=False)
        spans = [Span(start, max(end, start + 1)) for start, end in encoding.offsets]
        return TokenizedText(encoding.ids, spans, encoding.word_ids)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes a token stands for.

        Raises:
            InputError: The id is out of range.
        """
        token = self._plain.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        if token is None:
            special = {number: text for text, number in self._special_ids.items()}.get(token_id)
            if special is None:
                raise InputError(f"token id {token_id} is out of range; the vocabulary has {self.vocab_size} tokens")
            return special.encode()
        if token in self._special_ids:
            return token.encode()
        if not self._has_byte_tokens:
            return bytes(_BYTE_OF[letter] for letter in token)
        byte = _BYTE_TOKEN.fullmatch(token)
        return token.replace("\u2581", " ").encode() if byte is None else bytes([int(byte[1], 16)])

    def render(self, messages: Sequence[Message], *, is_open: bool, has_reasoning: bool = False) -> Rendered:
        """Render a conversation.

        Args:
            messages: Oldest first. An empty conversation is rendered as an empty user turn.
            is_open: Add the header of the assistant's next turn, so that a response can follow at once.
            has_reasoning: That response will begin with reasoning; otherwise the template's empty reasoning block, if
                it has one, is part of the header.

        Raises:
            InputError: The template refuses this conversation.
        """
        turns = list(messages) or [_EMPTY_PROMPT]
        text = self._render_text(turns, is_open=is_open, has_reasoning=has_reasoning)
        rendered = Rendered([], [], [], None)
        last_user = max((index for index, turn in enumerate(turns) if turn.role is Role.USER), default=None)
        prompt_position: int | None = None
        has_passed = False
        segment: list[tuple[str, int | None]] = []
        for kind, value in self._pieces(text):
            if kind == "special":
                self._append_segment(rendered, segment)
                segment = []
                if has_passed and prompt_position is None:
                    prompt_position = len(rendered.ids)
                rendered.ids.append(self._special_ids[value])
                rendered.owners.append(None)
                rendered.spans.append(None)
            elif kind == "mark":
                index, part = int(value[:-1]), value[-1]
                turn = turns[index]
                segment.append((clean_text(turn.content if part == "c" else turn.reasoning or ""), index))
                has_passed = has_passed or index == last_user
            else:
                segment.append((value, None))
        self._append_segment(rendered, segment)
        if not messages:
            prompt_position = None
        return Rendered(rendered.ids, rendered.owners, rendered.spans, prompt_position)

    def reasoning_frame(self) -> ReasoningFrame:
        """Return what the template writes around reasoning in the assistant's last turn.

        Raises:
            InputError: The template has no place for reasoning.
        """
        turns = [_EMPTY_PROMPT, Message(Role.ASSISTANT, "answer", "thought")]
        header = self._render_text(turns[:1], is_open=True, has_reasoning=True)
        whole = self._render_text(turns, is_open=False, has_reasoning=True)
        found = re.fullmatch("(.*)\ue0001r\ue001(.*)\ue0001c\ue001.*", whole.removeprefix(header), re.DOTALL)
        if found is None or not whole.startswith(header):
            raise InputError("this guard's chat template has no place for reasoning")
        before, after = (tuple(self._encode_template(text)) for text in found.groups())
        return ReasoningFrame(before, after)

    def _encode_template(self, text: str) -> Iterator[int]:
        for kind, value in self._pieces(text):
            if kind == "special":
                yield self._special_ids[value]
            else:
                yield from self.encode(value).ids

    def _render_text(self, turns: Sequence[Message], *, is_open: bool, has_reasoning: bool) -> str:
        values = [_template_message(turn, index) for index, turn in enumerate(turns)]
        try:
            return self._template.render(
                messages=values, add_generation_prompt=is_open, enable_thinking=has_reasoning, tools=None
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InputError(f"the guard's chat template refuses this conversation: {error}") from error

    def _pieces(self, text: str) -> Iterator[tuple[str, str]]:
        """Split rendered text into ("special", token), ("mark", index and part) and ("text", ...)."""
        position = 0
        for mark in _MARK.finditer(text):
            yield from self._template_pieces(text[position : mark.start()])
            yield "mark", mark[1] + mark[2]
            position = mark.end()
        yield from self._template_pieces(text[position:])

    def _template_pieces(self, text: str) -> Iterator[tuple[str, str]]:
        position = 0
        for special in self._special.finditer(text):
            if special.start() > position:
                yield "text", text[position : special.start()]
            yield "special", special[0]
            position = special.end()
        if position < len(text):
            yield "text", text[position:]

    def _append_segment(self, rendered: Rendered, segment: Sequence[tuple[str, int | None]]) -> None:
        """Encode text between two special tokens and say whose characters each token covers."""
        if not segment:
            return
        encoded = self.encode("".join(text for text, _ in segment))
        bounds: list[tuple[int, int, int | None]] = []
        start = 0
        for text, owner in segment:
            bounds.append((start, start + len(text), owner))
            start += len(text)
        current = 0
        for token_id, span in zip(encoded.ids, encoded.spans, strict=True):
            while current + 1 < len(bounds) and bounds[current][1] <= span.start:
                current += 1
            owner, owned = _owned(bounds[current:], span)
            rendered.ids.append(token_id)
            rendered.owners.append(owner)
            rendered.spans.append(owned)


def _owned(bounds: Sequence[tuple[int, int, int | None]], span: Span) -> tuple[int | None, Span | None]:
    """Return the first message a token touches, and the characters of it."""
    for start, end, owner in bounds:
        if start >= span.end:
            break
        if owner is not None and end > span.start:
            return owner, Span(max(span.start, start) - start, min(span.end, end) - start)
    return None, None


def clean_text(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates by U+FFFD, one for one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _template_message(turn: Message, index: int) -> dict[str, str]:
    message = {"role": turn.role.value, "content": f"\ue000{index}c\ue001"}
    if turn.reasoning is not None:
        message["reasoning_content"] = f"\ue000{index}r\ue001"
    return message


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the same model, which is not copied, and without post-processor and truncation."""
    plain = Tokenizer(tokenizer.model)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if getattr(tokenizer, part) is not None:
            setattr(plain, part, getattr(tokenizer, part))
    return plain


def _read_template(folder: Path) -> str:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    try:
        template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder} has no chat template; it must be in chat_template.jinja or in {path.name} as chat_template"
        ) from error
    if not isinstance(template, str):
        raise CheckpointError(f"{path}: chat_template must be a string")
    return template


def compile_template(chat_template: str) -> Template:
    """Return a chat template in Hugging Face's dialect of Jinja, which gets `messages` and `add_generation_prompt`.

    Raises:
        CheckpointError: It is broken.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    try:
        return environment.from_string(chat_template)
    except TemplateError as error:
        raise CheckpointError(f"the chat template is broken: {error}") from error


def _raise(message: str) -> None:
    raise TemplateError(message)


def byte_letters() -> Mapping[str, int]:
    """Map the letters of byte-level BPE to bytes (GPT-2's table: printable bytes stand for themselves)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


_BYTE_OF = byte_letters()
