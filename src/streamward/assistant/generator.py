"""Writes many answers at once: one thread, one batched pass a step."""

import logging
import threading
from collections import deque
from collections.abc import Collection, Sequence

import torch

from streamward.assistant.answer import GeneratedAnswer, Written, read_next
from streamward.assistant.config import AssistantConfig
from streamward.errors import CheckpointError, OverloadedError, StreamClosedError, StreamwardError
from streamward.model.guard_model import CausalLM
from streamward.model.torch_threads import fixed_threads

logger = logging.getLogger(__name__)


class Generator:
    """Continues prompts with a causal language model, token by token. Thread-safe.

    Answers join and leave between steps, so a short one never waits for a long one. Prompts are read in parts, so that
    a long one does not hold up those being written.
    """

    def __init__(self, model: CausalLM, config: AssistantConfig, *, end_ids: Collection[int]) -> None:
        """Start the thread.

        Args:
            model: Its weights may be packed.
            config: Limits.
            end_ids: Tokens that end an answer; they are not delivered.
        """
        self._model = model
        self._config = config
        self._end_ids = frozenset(end_ids)
        self._waiting: deque[GeneratedAnswer] = deque()
        self._active: list[GeneratedAnswer] = []
        self._wake = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="assistant", daemon=True)
        self._thread.start()

    @property
    def num_answers(self) -> int:
        """Answers that wait or are being written, cancelled ones among them until the next step."""
        with self._wake:
            return len(self._waiting) + len(self._active)

    def start(self, answers: Sequence[GeneratedAnswer]) -> None:
        """Queue answers; they are written as soon as there is room.

        Raises:
            OverloadedError: Too many wait already. None was queued.
            StreamClosedError: The generator was closed.
        """
        with self._wake:
            if self._is_closed:
                raise StreamClosedError("the assistant is shutting down")
            num_open = len(self._active) + len(self._waiting) + len(answers)
            if num_open > self._config.max_active + self._config.max_waiting:
                raise OverloadedError(
                    f"{num_open} answers would be open; max_active and max_waiting allow"
                    f" {self._config.max_active + self._config.max_waiting}; try later"
                )
            self._waiting += answers
            self._wake.notify()

    def cancel(self, answers: Sequence[GeneratedAnswer]) -> None:
        """Stop writing answers before the next step. Those that have ended may be among them."""
        with self._wake:
            for answer in answers:
                answer.is_cancelled = True
            self._wake.notify()

    def close(self) -> None:
        """Stop the thread; answers still open end with an error."""
        with self._wake:
            self._is_closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._step(batch)
            except Exception as error:  # a bug of ours or of torch ends these answers only
                logger.exception("a step of the assistant failed", extra={"num_answers": len(batch)})
                known = error if isinstance(error, StreamwardError) else StreamwardError("the assistant failed")
                self._end(batch, Written(None, error=known))
        self._end([*self._active, *self._waiting], Written(None, error=StreamClosedError("the assistant shut down")))

    def _next_batch(self) -> list[GeneratedAnswer]:
        """Wait for something to do; empty when the generator was closed."""
        with self._wake:
            while not self._is_closed:
                self._active = [answer for answer in self._active if not answer.is_cancelled]
                self._waiting = deque(answer for answer in self._waiting if not answer.is_cancelled)
                while self._waiting and len(self._active) < self._config.max_active:
                    self._active.append(self._waiting.popleft())
                if self._active:
                    return list(self._active)
                self._wake.wait()
            return []

    @torch.inference_mode()
    def _step(self, batch: Sequence[GeneratedAnswer]) -> None:
        parts = self._parts(batch)
        with fixed_threads(self._config.threads):
            hidden_AD = read_next(self._model.decoder, parts)
            ready = [index for index, (answer, _) in enumerate(parts) if not answer.num_unread]
            if not ready:
                return
            logits_AV = self._model.logits(hidden_AD[ready]).cpu()
            if not bool(torch.isfinite(logits_AV).all()):
                raise CheckpointError("the assistant's model gave non-finite logits")
            for index, logits_V in zip(ready, logits_AV, strict=True):
                self._write(parts[index][0], logits_V)

    def _parts(self, batch: Sequence[GeneratedAnswer]) -> list[tuple[GeneratedAnswer, int]]:
        """Take one token of each answer being written, and as much of the prompts as fits."""
        left, parts = self._config.prefill_tokens, []
        for answer in batch:
            count = answer.num_unread if answer.num_unread == 1 else min(answer.num_unread, left)
            if answer.num_unread > 1:
                left -= count
            if count:
                parts.append((answer, count))
        return parts

    def _write(self, answer: GeneratedAnswer, logits_V: torch.Tensor) -> None:
        token = answer.sampler.choose(logits_V)
        if token in self._end_ids:
            self._end([answer], Written(None, "stop"))
            return
        answer.ids.append(token)
        answer.num_written += 1
        if answer.num_written >= answer.max_tokens:
            self._end([answer], Written(token, "length"))
        else:
            answer.deliver(Written(token))

    def _end(self, answers: Sequence[GeneratedAnswer], last: Written) -> None:
        ended = set(map(id, answers))
        with self._wake:
            self._active = [answer for answer in self._active if id(answer) not in ended]
        for answer in answers:
            answer.deliver(last)
