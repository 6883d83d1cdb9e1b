"""Generation with vLLM in this process; what an answer keeps when it is cut is found in vLLM's prefix cache."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from streamward.errors import InputError, UpstreamError
from streamward.intervene.generation import GenerationPrefix
from streamward.intervene.token_text import TokenText, check_sampling

if TYPE_CHECKING:
    from vllm import LLM

_NUMBERS = count()


class VllmGenerate:
    """Continues one answer, token by token; the `generate` of a `GuardedGeneration`.

    Each call is a request of its own behind the prompt and the tokens that are kept. With vLLM's prefix caching, which
    is on unless it was turned off, only the last block of these is read again. While it generates, nobody else may use
    the same `LLM`: its steps are this call's.
    """

    def __init__(
        self,
        llm: "LLM",
        prompt: str | Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int = 512,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Generate nothing yet.

        Args:
            llm: A generating model.
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
        self.num_prompt_tokens = 0
        """Tokens of the prompts of all requests."""
        self.num_cached_tokens = 0
        """Prompt tokens of all requests that were found in the prefix cache."""
        self._llm = llm
        self._tokenizer: Any = llm.get_tokenizer()  # Any: of vLLM
        if not isinstance(prompt, str):
            turns = [dict(turn) for turn in prompt]
            prompt = str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        self._prompt_ids = self._encode(prompt)
        if not self._prompt_ids:
            raise InputError("the prompt has no tokens")
        self._max_new_tokens = max_new_tokens
        self._temperature, self._top_p, self._seed = temperature, top_p, seed
        self._answer = TokenText(self._encode)
        self._pending: list[int] = []  # tokens whose text is not complete

    def __call__(self, prefix: GenerationPrefix) -> Iterator[str]:
        """Continue the answer; yields the text of one or more tokens at a time.

        Raises:
            UpstreamError: Somebody else uses the model.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine: Any = self._llm.llm_engine  # Any: of vLLM
        if engine.has_unfinished_requests():
            raise UpstreamError("the vLLM model is used by somebody else; one answer is generated at a time")
        self._answer.rewind(prefix.text)
        self._pending = []
        left = self._max_new_tokens - len(self._answer.ids)
        if left < 1:
            return
        ids = [*self._prompt_ids, *self._answer.ids, *self._encode(prefix.whole[len(prefix.text) :])]
        name = f"streamward-{next(_NUMBERS)}"
        parameters = SamplingParams(
            max_tokens=left,
            temperature=self._temperature + prefix.raise_temperature,
            top_p=self._top_p,
            seed=self._seed + prefix.attempt,
            output_kind=RequestOutputKind.DELTA,
        )
        engine.add_request(name, {"prompt_token_ids": ids}, parameters)
        self.num_prompt_tokens += len(ids)
        is_over, num_cached = False, 0
        try:
            while not is_over:
                for output in engine.step():
                    if output.request_id == name:
                        is_over, num_cached = output.finished, output.num_cached_tokens or num_cached
                        yield from self._take(output)
        finally:
            self.num_cached_tokens += num_cached
            if not is_over:
                engine.abort_request([name])

    def _take(self, output: Any) -> Iterator[str]:  # Any: a RequestOutput of vLLM
        for each in output.outputs:
            ids = list(each.token_ids)
            self._pending += ids[:-1] if each.finish_reason == "stop" else ids  # the last token ended the answer
            if each.text:
                self._answer.append(self._pending, each.text)
                self._pending = []
                yield each.text

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
