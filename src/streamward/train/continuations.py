"""Goes on with an answer several times: rollouts from a causal language model on this machine."""

# Shapes: B continuations; t new tokens of each; H query heads; K key/value heads; d head size; V vocabulary.

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from streamward.bundled.base import BASES, prepare_base
from streamward.data.jsonl import Sample
from streamward.errors import InputError
from streamward.model.checkpoint import load_gen
from streamward.model.guard_model import CausalLM
from streamward.schema import Message, Role
from streamward.tokenizer import GuardTokenizer, clean_text
from streamward.train.initialization import run_tokenizer


class ContinuationGenerator:
    """Continues answers by sampling."""

    def __init__(self, model: CausalLM, tokenizer: GuardTokenizer, *, seed: int) -> None:
        """Take a model and the template it answers in."""
        self._model = model
        self._tokenizer = tokenizer
        self._random = torch.Generator().manual_seed(seed)
        turn = tokenizer.render([Message(Role.USER, "")], is_open=False)
        self._end = None if turn.prompt_position is None else turn.ids[turn.prompt_position]

    @classmethod
    def load(cls, name: str, *, seed: int) -> "ContinuationGenerator":
        """Load the embedded base, or a folder in Hugging Face layout with its own template.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        if name in BASES:
            folder = prepare_base(name)
            tokenizer = run_tokenizer(folder, is_gen=False)
        else:
            folder = Path(name)
            has_template = (folder / "chat_template.jinja").exists() or (folder / "tokenizer_config.json").exists()
            tokenizer = GuardTokenizer.from_folder(folder) if has_template else run_tokenizer(folder, is_gen=False)
        return cls(load_gen(folder, dtype=torch.bfloat16), tokenizer, seed=seed)

    @torch.inference_mode()
    def generate(
        self, sample: Sample, prefix: str, *, count: int, max_new_tokens: int, temperature: float
    ) -> list[str]:
        """Return continuations of a response's beginning.

        Raises:
            InputError: The conversation leaves no room for them.
        """
        turns = [*sample.history, Message(Role.USER, clean_text(sample.prompt))]
        ids = [*self._tokenizer.render(turns, is_open=True).ids, *self._tokenizer.encode(clean_text(prefix)).ids]
        room = self._model.decoder.config.max_positions - len(ids)
        if room < 1:
            raise InputError(f"the conversation has {len(ids)} tokens; the generator's positions do not hold more")
        cache = _Cache()
        logits_BV = self._read(torch.tensor([ids]), cache, start=0).expand(count, -1)
        cache.fork(count)
        chosen: list[Tensor] = []
        is_open_B = torch.ones(count, dtype=torch.bool)
        for step in range(min(max_new_tokens, room)):
            probabilities_BV = (logits_BV / temperature).softmax(dim=1)
            tokens_B = torch.multinomial(probabilities_BV, 1, generator=self._random)[:, 0]
            is_open_B = is_open_B & (tokens_B != self._end)
            chosen.append(torch.where(is_open_B, tokens_B, -1))
            if not bool(is_open_B.any()) or step + 1 == min(max_new_tokens, room):
                break
            logits_BV = self._read(tokens_B[:, None], cache, start=len(ids) + step)
        return [self._text([int(token) for token in row if token >= 0]) for row in torch.stack(chosen, dim=1)]

    def _read(self, ids_Bt: Tensor, cache: "_Cache", *, start: int) -> Tensor:
        """Return the logits after the last token of each sequence, [B, V]."""
        batch_size, length = ids_Bt.shape
        cache.batch_size = batch_size
        positions_T = torch.arange(start, start + length).repeat(batch_size)
        hidden_TD = self._model.decoder(ids_Bt.reshape(-1), positions_T, cache)
        return self._model.logits(hidden_TD.view(batch_size, length, -1)[:, -1])

    def _text(self, ids: list[int]) -> str:
        return b"".join(self._tokenizer.token_bytes(token_id) for token_id in ids).decode("utf-8", "replace")


class _Cache:
    """Keys and values of sequences of one length; one sequence until they part."""

    def __init__(self) -> None:
        self.batch_size = 1
        self._keys_BKtd: list[Tensor] = []
        self._values_BKtd: list[Tensor] = []

    def fork(self, count: int) -> None:
        """Go on with several sequences that begin with the one so far."""
        self._keys_BKtd = [keys.expand(count, -1, -1, -1) for keys in self._keys_BKtd]
        self._values_BKtd = [values.expand(count, -1, -1, -1) for values in self._values_BKtd]

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        """Return the attended values, [T, H * d]."""
        q, k, v = (each.view(self.batch_size, -1, *each.shape[1:]).transpose(1, 2) for each in (q_THd, k_TKd, v_TKd))
        if layer == len(self._keys_BKtd):
            self._keys_BKtd.append(k)
            self._values_BKtd.append(v)
        else:
            self._keys_BKtd[layer] = torch.cat((self._keys_BKtd[layer], k), dim=2)
            self._values_BKtd[layer] = torch.cat((self._values_BKtd[layer], v), dim=2)
        num_shared = q.shape[1] // k.shape[1]
        keys = self._keys_BKtd[layer].repeat_interleave(num_shared, dim=1)
        values = self._values_BKtd[layer].repeat_interleave(num_shared, dim=1)
        attended = F.scaled_dot_product_attention(q, keys, values, is_causal=q.shape[2] > 1)
        return attended.transpose(1, 2).reshape(q_THd.shape[0], -1)
