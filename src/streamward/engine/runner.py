"""One forward pass over the new tokens of many streams."""

# Shapes: T tokens of all streams, packed and padded; D hidden size.

from collections.abc import Sequence

import torch
from torch import Tensor

from streamward.engine.attention import AttentionMetadata, KVCache, PagedAttention
from streamward.engine.native_runner import NativeModelRunner, SequenceMetadata
from streamward.engine.token_sequence import TokenSequence
from streamward.errors import ConfigError
from streamward.model.attention import round_size
from streamward.model.config import ModelConfig
from streamward.model.decoder import Decoder
from streamward.model.native import library as native


def token_bytes(config: ModelConfig, dtype: torch.dtype, *, is_int8: bool) -> int:
    """Return what the keys and values of one token take over all layers.

    Args:
        config: Of the decoder.
        dtype: Of the decoder.
        is_int8: Whether they are rounded to 8 bits.
    """
    if not is_int8:
        return KVCache.bytes_per_token(config, dtype)
    in_layer = native.cache_token_bytes(num_kv_heads=config.num_kv_heads, head_dim=config.head_dim, is_int8=True)
    return config.num_layers * in_layer


class Runner:
    """Runs a decoder over the cache, with native kernels where there are any."""

    def __init__(
        self, decoder: Decoder, *, num_pages: int, page_tokens: int, max_tokens: int, use_native: bool, int8_cache: bool
    ) -> None:
        """Take a decoder and reserve the cache it fills.

        Args:
            decoder: Its weights must not change from now on.
            num_pages: Of the cache.
            page_tokens: Tokens of one page.
            max_tokens: New tokens of one pass at most.
            use_native: Whether native kernels may run.
            int8_cache: Whether keys and values are rounded to 8 bits.

        Raises:
            ConfigError: They are to be rounded, and no native kernels run.
        """
        self._decoder = decoder
        self._page_tokens = page_tokens
        self._device = decoder.embed.weight.device
        self._fused = None
        if use_native:
            self._fused = NativeModelRunner.create(
                decoder, num_pages=num_pages, page_tokens=page_tokens, max_rows=max_tokens, int8_cache=int8_cache
            )
        if self._fused is None and int8_cache:
            raise ConfigError(
                "a KV cache of 8 bits needs the native kernels (a C compiler at installation, a CPU with AVX512-BF16,"
                " bfloat16, page_tokens a multiple of 16); set kv_cache to full"
            )
        self._cache = None if self._fused is not None else self._plain_cache(num_pages)

    @property
    def is_native(self) -> bool:
        """Whether native kernels run."""
        return self._fused is not None

    @torch.inference_mode()
    def forward(self, batch: Sequence[tuple[TokenSequence, int]]) -> Tensor:
        """Read the next tokens of each stream; return their hidden states [T, D], perhaps with padding behind them.

        They stay as they are until the next pass.
        """
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for stream, count in batch:
            start, end = stream.num_cached, stream.num_cached + count
            ids += stream.token_ids[start:end]
            positions += range(start, end)
            slots += stream.slots(start, end, page_tokens=self._page_tokens)
        if self._fused is not None:
            parts = [SequenceMetadata(count, stream.num_cached + count, stream.pages) for stream, count in batch]
            return self._fused(ids, positions=positions, slots=slots, parts=parts)
        assert self._cache is not None
        padding = [0] * (round_size(len(ids)) - len(ids))
        ids_T = torch.tensor(ids + padding, device=self._device)
        new_slots_T = torch.tensor(slots, device=self._device)
        attend = PagedAttention(self._decoder.config, self._cache, new_slots_T=new_slots_T, parts=self._parts(batch))
        hidden_TD: Tensor = self._decoder(ids_T, torch.tensor(positions + padding, device=self._device), attend)
        return hidden_TD

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page of the cache in every layer."""
        if self._fused is not None:
            self._fused.copy_page(source, target)
        elif self._cache is not None:
            self._cache.copy_page(source, target, page_tokens=self._page_tokens)

    def _plain_cache(self, num_pages: int) -> KVCache:
        dtype = self._decoder.embed.weight.dtype
        num_slots = num_pages * self._page_tokens
        return KVCache(self._decoder.config, num_slots=num_slots, dtype=dtype, device=self._device)

    def _parts(self, batch: Sequence[tuple[TokenSequence, int]]) -> list[AttentionMetadata]:
        parts: list[AttentionMetadata] = []
        row = 0
        for stream, count in batch:
            end = stream.num_cached + count
            parts.append(AttentionMetadata(slice(row, row + count), self._slots(stream, end), end))
            row += count
        return parts

    def _slots(self, stream: TokenSequence, end: int) -> slice | Tensor:
        page_tokens = self._page_tokens
        length = -(-end // page_tokens) * page_tokens
        if stream.has_adjacent_pages():
            first = stream.pages[0] * page_tokens
            return slice(first, first + length)
        return torch.tensor(stream.slots(0, length, page_tokens=page_tokens), device=self._device)
