"""Limits of the assistant."""

from pydantic import Field

from streamward.settings import Settings


class AssistantConfig(Settings):
    """Limits of one assistant."""

    max_active: int = Field(default=16, gt=0)
    """Answers written at the same time; each of the `n` choices of a request counts."""
    max_waiting: int = Field(default=64, ge=0)
    """Answers that wait for their turn; above this requests are refused with 503."""
    max_context_tokens: int = Field(default=4096, gt=1)
    """Prompt and answer together, in tokens."""
    default_max_tokens: int = Field(default=512, gt=0)
    """Longest answer where a chat request sets no limit."""
    prefill_tokens: int = Field(default=256, gt=0)
    """Prompt tokens of one step, over all answers; those being written never wait longer than for these."""
    max_body_bytes: int = Field(default=2**20, gt=0)
    """Longest request body."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; None takes torch's number, and fewer while other processes, such as the guard, hold cores."""
