"""Generation with a model of `transformers`, whose cache is cut back when an answer is changed in progress."""

# Shapes: t tokens of a pass; V vocabulary.

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from streamward.errors import InputError
from streamward.intervene.generation import GenerationPrefix
from streamward.intervene.token_text import TokenText, check_sampling, num_common

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CONTEXT_TOKENS = 6  # decoded in front of new ones, because tokens read otherwise at the start of a text


class TransformersGenerate:
    """Continues one answer, token by token; the `generate` of a `GuardedGeneration`.

    The model's cache holds what it has read. Where an answer is cut, the cache is cut at the same token, so that only
    what is new is read: the last token that is kept, and a self-check.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        prompt: str | Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int = 512,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Generate nothing yet.

        Args:
            model: A causal language model.
            tokenizer: Its tokenizer.
            prompt: Messages for the tokenizer's chat template, or a text that is read as it is.
            max_new_tokens: Longest answer; what was dropped does not count.
            temperature: 0 takes the most probable token each time.
            top_p: Only the most probable tokens that together reach this share are drawn from.
            seed: Seed of the first attempt; further ones count up from it.

        Raises:
            InputError: The prompt has no tokens.
            ConfigError: A value is out of range.
        """
        check_sampling(max_new_tokens, temperature=temperature, top_p=top_p)
        if not isinstance(prompt, str):
            prompt = str(
                tokenizer.apply_chat_template(
                    [dict(turn) for turn in prompt], tokenize=False, add_generation_prompt=True
                )
            )
        self.num_read = 0
        """Tokens the model has read, those that it read again included."""
        self._model = model
        self._tokenizer = tokenizer
        self._prompt_ids = self._encode(prompt)
        if not self._prompt_ids:
            raise InputError("the prompt has no tokens")
        self._max_new_tokens = max_new_tokens
        self._temperature, self._top_p, self._seed = temperature, top_p, seed
        self._end_ids = _end_ids(model, tokenizer)
        self._answer = TokenText(self._encode)
        self._cached_ids: list[int] = []
        self._cache: Any = None  # Any: transformers is imported when it is used

    def __call__(self, prefix: GenerationPrefix) -> Iterator[str]:
        """Continue the answer; yields the text of one or more tokens at a time."""
        self._answer.rewind(prefix.text)
        check_ids = self._encode(prefix.whole[len(prefix.text) :])
        chooser = torch.Generator().manual_seed(self._seed + prefix.attempt)
        temperature = self._temperature + prefix.raise_temperature
        ids = [*self._prompt_ids, *self._answer.ids, *check_ids]
        shown = len(ids)
        first = max(0, shown - _CONTEXT_TOKENS)
        while len(self._answer.ids) + len(ids) - shown < self._max_new_tokens:
            token_id = _choose(self._read(ids), temperature=temperature, top_p=self._top_p, chooser=chooser)
            if token_id in self._end_ids:
                break
            ids.append(token_id)
            before, now = self._decode(ids[first:shown]), self._decode(ids[first:])
            if len(now) > len(before) and not now.endswith("\ufffd"):
                piece = now[len(before) :]
                self._answer.append(ids[shown:], piece)
                first, shown = shown, len(ids)
                yield piece
        rest = self._decode(ids[first:])[len(self._decode(ids[first:shown])) :]
        if rest:
            self._answer.append(ids[shown:], rest)
            yield rest

    def _read(self, ids: Sequence[int]) -> Tensor:
        """Return the logits behind the last token, [V]; the cache holds all tokens afterwards."""
        from transformers import DynamicCache

        num_same = min(num_common(self._cached_ids, ids), len(ids) - 1)
        num_dropped = len(self._cached_ids) - num_same
        if self._cache is None or (num_dropped and not _can_be_cut(self._cache)):
            self._cache, num_same = DynamicCache(config=self._model.config), 0
        elif num_dropped:
            self._cache.crop(-num_dropped)
        self._cached_ids = list(ids[:num_same])
        new_1t = torch.tensor([list(ids[num_same:])], device=self._model.device)
        with torch.inference_mode():
            logits_1tV = self._model(input_ids=new_1t, past_key_values=self._cache, use_cache=True).logits
        self._cached_ids = list(ids)
        self.num_read += new_1t.shape[1]
        last_V: Tensor = logits_1tV[0, -1].float().cpu()
        return last_V

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _choose(logits_V: Tensor, *, temperature: float, top_p: float, chooser: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    shares_V, ids_V = (logits_V / temperature).softmax(dim=-1).sort(descending=True)
    shares_V = shares_V * (shares_V.cumsum(dim=0) - shares_V < top_p)  # the first token is always kept
    return int(ids_V[torch.multinomial(shares_V, 1, generator=chooser)])


def _end_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    stated = getattr(model.generation_config, "eos_token_id", None)
    ids = stated if isinstance(stated, list) else [stated]
    return frozenset(each for each in [*ids, tokenizer.eos_token_id] if isinstance(each, int))


def _can_be_cut(cache: Any) -> bool:  # Any: of transformers
    """Return whether every layer holds all it has read: sliding windows and recurrent states cannot go back."""
    return all(type(layer).__name__ == "DynamicLayer" for layer in cache.layers)
