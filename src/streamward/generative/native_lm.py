"""A causal language model run by the native kernels. No torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamward.generative.cached_tokens import CachedTokens
from streamward.kernels.cache import SequenceSlice
from streamward.kernels.decoder import KernelDecoder
from streamward.kernels.library import Kernels, load_kernels, set_num_threads
from streamward.model.kernel_model import has_int8_weights, pack_decoder, pack_lm_head
from streamward.model.parameters import ModelParameters

PAGE_TOKENS = 64
_MAX_ROWS = 512  # most tokens of one pass


class NativeLanguageModel:
    """Decoder and language-model head; the cache holds one sequence and is used again by the next."""

    def __init__(
        self, parameters: ModelParameters, *, threads: int | None = None, kernels: Kernels | None = None
    ) -> None:
        """Pack the weights.

        Args:
            parameters: Parameters of a causal language model; may be mapped from its file.
            threads: CPU threads of the whole process; None leaves them as they are.
            kernels: Those of this CPU by default.
        """
        kernels = load_kernels() if kernels is None else kernels
        if threads is not None:
            set_num_threads(threads)
        self.max_positions = parameters.config.max_positions
        self._vocab_size = parameters.config.vocab_size
        self._lm_head = pack_lm_head(parameters, kernels)
        self._decoder = KernelDecoder(
            kernels,
            pack_decoder(parameters, kernels, int8_cache=False),
            num_pages=-(-self.max_positions // PAGE_TOKENS),
            page_tokens=PAGE_TOKENS,
            max_rows=min(_MAX_ROWS, self.max_positions),
            fast_attention=not has_int8_weights(parameters),
        )

    def session(self, ids: Sequence[int], *, capacity: int) -> "NativeSession":
        """Start a sequence in the place of the one before."""
        return NativeSession(self, ids)

    def hidden(self, ids: Sequence[int], *, start: int) -> NDArray[np.float32]:
        """Process tokens from a position on; return the hidden state of the last, [1, hidden size].

        Args:
            ids: The tokens.
            start: Their position; what comes before is in the cache.
        """
        pages = range(-(-(start + len(ids)) // PAGE_TOKENS))
        for first in range(0, len(ids), _MAX_ROWS):
            part = ids[first : first + _MAX_ROWS]
            positions = range(start + first, start + first + len(part))
            whole = [SequenceSlice(len(part), positions.stop, pages)]
            decoded = self._decoder.decode(part, positions=positions, slots=positions, parts=whole)
        return decoded.hidden[-1:]

    def logits(self, hidden_1D: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the next token's logits, [vocabulary]."""
        return self._lm_head.matmul(hidden_1D)[0, : self._vocab_size]


class NativeSession(CachedTokens):
    """One sequence of a `NativeLanguageModel`."""

    def __init__(self, model: NativeLanguageModel, ids: Sequence[int]) -> None:
        """Start with some tokens, none of them processed."""
        self._model = model
        super().__init__(ids)

    def logits(self) -> NDArray[np.float32]:
        """Return the logits of the next token, [vocabulary]."""
        start = min(self._num_cached, self.length - 1)
        hidden_1D = self._model.hidden(self._ids[start:], start=start)
        self._num_cached = self.length
        return self._model.logits(hidden_1D)
