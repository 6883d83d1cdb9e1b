"""From logits to the next token."""

# Shapes: V vocabulary; k candidates.

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

_FIRST_CANDIDATES = 256  # candidates for top_p: the whole vocabulary is seldom needed


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings for writing an answer, in OpenAI's terms.

    Attributes:
        max_tokens: Longest answer.
        temperature: 0 takes the most probable token each time.
        top_p: Only the most probable tokens that together reach this share are drawn from.
        seed: The same seed gives the same answer to the same prompt; None draws anew each time.
        frequency_penalty: Taken off a token's logit for each time it was written.
        presence_penalty: Taken off a token's logit once it was written.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


class Sampler:
    """Chooses the tokens of one answer."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**63)
        self._counts: Counter[int] = Counter()

    def choose(self, logits_V: Tensor) -> int:
        """Return the next token, and remember it for the penalties."""
        logits_V = self._penalised(logits_V)
        temperature = self._sampling.temperature
        if temperature == 0.0:
            token = int(logits_V.argmax())
        else:
            token = self._draw(((logits_V - logits_V.max()) / temperature).softmax(dim=-1))
        self._counts[token] += 1
        return token

    def _penalised(self, logits_V: Tensor) -> Tensor:
        frequency, presence = self._sampling.frequency_penalty, self._sampling.presence_penalty
        if not self._counts or (frequency == 0.0 and presence == 0.0):
            return logits_V
        seen = torch.tensor(list(self._counts))
        counts = torch.tensor(list(self._counts.values()), dtype=logits_V.dtype)
        return logits_V.index_add(0, seen, -(frequency * counts + presence))

    def _draw(self, shares_V: Tensor) -> int:
        if self._sampling.top_p == 1.0:
            return int(torch.multinomial(shares_V, 1, generator=self._generator))
        for count in (min(_FIRST_CANDIDATES, len(shares_V)), len(shares_V)):
            shares_k, ids_k = shares_V.topk(count)
            before_k = shares_k.cumsum(dim=0) - shares_k
            if float(before_k[-1]) >= self._sampling.top_p:
                break
        kept_k = shares_k * (before_k < self._sampling.top_p)  # the first token is always kept
        return int(ids_k[torch.multinomial(kept_k, 1, generator=self._generator)])
