"""One forward pass over the new tokens of many streams."""

# Shapes: T tokens of all streams, packed and padded; D hidden size.

from collections.abc import Sequence

import torch
from torch import Tensor

from streamward.engine.attention import KVCache, PagedAttention, Part
from streamward.engine.fused import FusedDecoder, Reach
from streamward.engine.stream import Stream
from streamward.model.attention import round_size
from streamward.model.decoder import Decoder


class Runner:
    """Runs a decoder over the cache, with native kernels where there are any."""

    def __init__(
        self, decoder: Decoder, *, cache: KVCache, page_tokens: int, max_tokens: int, use_native: bool
    ) -> None:
        """Take a decoder and the cache it fills.

        Args:
            decoder: Its weights must not change from now on.
            cache: Keys and values of all streams.
            page_tokens: Tokens of one page.
            max_tokens: New tokens of one pass at most.
            use_native: Whether native kernels may run.
        """
        self._decoder = decoder
        self._cache = cache
        self._page_tokens = page_tokens
        self._device = decoder.embed.weight.device
        self._fused = None
        if use_native:
            self._fused = FusedDecoder.create(decoder, cache=cache, page_tokens=page_tokens, max_rows=max_tokens)

    @property
    def is_native(self) -> bool:
        """Whether native kernels run."""
        return self._fused is not None

    @torch.inference_mode()
    def forward(self, batch: Sequence[tuple[Stream, int]]) -> Tensor:
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
            parts = [Reach(count, stream.num_cached + count, stream.pages) for stream, count in batch]
            return self._fused(torch.tensor(ids), positions=positions, slots=slots, parts=parts)
        padding = [0] * (round_size(len(ids)) - len(ids))
        ids_T = torch.tensor(ids + padding, device=self._device)
        new_slots_T = torch.tensor(slots, device=self._device)
        attend = PagedAttention(self._cache, new_slots_T=new_slots_T, parts=self._parts(batch))
        hidden_TD: Tensor = self._decoder(ids_T, torch.tensor(positions + padding, device=self._device), attend)
        return hidden_TD

    def _parts(self, batch: Sequence[tuple[Stream, int]]) -> list[Part]:
        parts: list[Part] = []
        row = 0
        for stream, count in batch:
            end = stream.num_cached + count
            parts.append(Part(slice(row, row + count), self._slots(stream, end), end))
            row += count
        return parts

    def _slots(self, stream: Stream, end: int) -> slice | Tensor:
        page_tokens = self._page_tokens
        length = -(-end // page_tokens) * page_tokens
        if stream.has_adjacent_pages():
            first = stream.pages[0] * page_tokens
            return slice(first, first + length)
        return torch.tensor(stream.slots(0, length, page_tokens=page_tokens), device=self._device)
