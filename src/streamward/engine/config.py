"""Limits of an engine."""

from typing import Literal

from pydantic import Field

from streamward.settings import Settings


class EngineConfig(Settings):
    """Limits of one engine."""

    max_streams: int = Field(default=1024, gt=0)
    """Streams open at the same time."""
    max_batch_tokens: int = Field(default=512, gt=0)
    """Token budget of one step, over all streams."""
    max_long_tokens: int = Field(default=128, gt=0)
    """Tokens that long texts get in a step while others make short appends, which bounds how long those wait."""
    max_queued_tokens: int = Field(default=65536, gt=0)
    """Tokens waiting for a step, over all streams."""
    max_stream_tokens: int | None = Field(default=None, gt=0)
    """Tokens of one stream; by default as many as the checkpoint has positions."""
    page_tokens: int = Field(default=64, gt=0)
    """Tokens of one page of the KV cache; the native kernels need a multiple of 16."""
    kv_cache_bytes: int = Field(default=2**30, gt=0)
    """Size of the KV cache. The system provides the memory as pages are first used."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads of a step; None uses every core that this process may run on."""
    runner: Literal["auto", "native", "torch"] = "auto"
    """Runner of the model: the native kernels of this CPU, or torch (extra `torch`). `auto` takes the kernels if they
    support the model, else torch."""
    weights: Literal["full", "int8"] | None = None
    """Weights of the decoder: as the checkpoint has them, or rounded to 8 bits when it is loaded (native kernels only).
    None serves prepared 8-bit guards, among them the embedded ones, with 8 bits, and every other checkpoint in full."""
    kv_cache: Literal["full", "int8"] = "full"
    """Keys and values: as they are computed, or rounded to 8 bits, which halves a stream's memory (native kernels)."""
    prefix_sharing: bool = True
    """True lets streams of one owner with the same beginning (system prompt, template, earlier turns) share its pages
    of the cache, which are then computed once (native kernels). Verdicts are the same, bit for bit."""
