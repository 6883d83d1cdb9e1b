"""What vLLM does with texts and its cache, by one full pass and without vLLM."""

from collections.abc import Sequence

import torch
from torch import Tensor

from streamward.model.decoder import dense_hidden
from streamward.model.guard_model import GuardModel
from streamward.schema import Side
from streamward.vllm.layout import Rows

BLOCK_TOKENS = 8


@torch.inference_mode()
def all_rows(guard: GuardModel, ids: Sequence[int]) -> Tensor:
    """Return the probabilities of every token, all heads side by side."""
    hidden_SD = dense_hidden(guard.decoder, torch.tensor([list(ids)]))[0]
    logits = [part for side in (Side.RESPONSE, Side.PROMPT) for part in guard.heads(side)(hidden_SD)]
    return torch.cat([part.softmax(-1) for part in logits], dim=-1)


class FakeVllm:
    """A reader with a cache of whole blocks by their text; the last token is always computed, as in vLLM."""

    def __init__(self, guard: GuardModel) -> None:
        self.guard = guard
        self.max_tokens = guard.decoder.config.max_positions
        self.vocab_size = guard.decoder.config.vocab_size
        self.blocks: set[tuple[int, ...]] = set()
        self.asked: list[tuple[int, bool]] = []
        """Length of each text, and whether its beginning could be cached."""
        self.num_stale: list[int] = []
        """Rows of an earlier beginning that the next answers hold besides their own."""
        self.failures: list[Exception] = []
        """What the next calls raise."""
        self.is_closed = False

    def read(self, token_ids: Sequence[int], *, reuse: bool) -> Rows:
        self.asked.append((len(token_ids), reuse))
        if self.failures:
            raise self.failures.pop(0)
        ids = tuple(token_ids)
        ends = range(BLOCK_TOKENS, len(ids) + 1, BLOCK_TOKENS)
        num_cached = 0
        for end in ends if reuse else ():
            if end < len(ids) and ids[:end] in self.blocks:
                num_cached = end
            else:
                break
        self.blocks |= {ids[:end] for end in ends}
        probs = all_rows(self.guard, ids)[num_cached:]
        if self.num_stale:
            probs = torch.cat([probs[: self.num_stale.pop(0)], probs])
        return Rows(probs.numpy(), num_cached)

    def close(self) -> None:
        self.is_closed = True
