"""Costs of the embedded guard around its model: start-up, and the text side of a stream."""

import subprocess
import sys
import time
from dataclasses import dataclass

from streamward.loading import load
from streamward.moderation.stream_guard import StreamGuard

_PROGRAM = "import streamward; streamward.load().moderate('Hello')"
_TEXT = "The quick brown fox, who was 7 years old, jumped over the lazy dog's basket and ran away.\n"


def ready_s(*, repeats: int) -> float:
    """Return the time from the start of a process to its first judgement, after a first load; the best of a few."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", _PROGRAM], check=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


@dataclass(frozen=True, slots=True)
class TextSide:
    """One stream fed word by word.

    Attributes:
        feed_ms: Time per word, everything included, milliseconds.
        step_ms: Part of `feed_ms` spent in the engine's steps, milliseconds.
    """

    feed_ms: float
    step_ms: float


def text_side(*, num_words: int) -> TextSide:
    """Feed a response to the embedded guard and see where the time goes."""
    spent = 0.0
    with load() as moderator:
        guard = moderator._guard
        assert isinstance(guard, StreamGuard)
        inner = guard.engine.step

        def step() -> object:
            nonlocal spent
            start = time.perf_counter()
            outputs = inner()
            spent += time.perf_counter() - start
            return outputs

        guard.engine.step = step  # type: ignore[method-assign,assignment]  # to take its time
        with moderator.stream(prompt="Tell me a story.") as stream:
            words = _TEXT.split(" ")
            for word in words:
                stream.feed(f"{word} ")
            spent, start = 0.0, time.perf_counter()
            for index in range(num_words):
                stream.feed(f"{words[index % len(words)]} ")
            total = time.perf_counter() - start
    return TextSide(total / num_words * 1e3, spent / num_words * 1e3)
