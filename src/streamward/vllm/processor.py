"""The plugin's own requests at `POST /pooling` of a vLLM server: token ids in, only the rows newly computed out."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from vllm import PoolingParams, PoolingRequestOutput
from vllm.config import VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.plugins.io_processors.interface import IOProcessor

from streamward.model.config import parse_model_config
from streamward.model.guard_config import parse_guard_config
from streamward.vllm.layout import fingerprint


class GuardProcessor(IOProcessor):  # type: ignore[misc]  # vLLM is not there when types are checked
    """The plugin that `--io-processor-plugin streamward` names.

    vLLM's own pooling requests read the whole text each time, so that there is a row of every token; these do not.
    """

    def __init__(self, vllm_config: VllmConfig, renderer: Any) -> None:  # Any: unused, of the interface
        super().__init__(vllm_config, renderer)
        raw = vllm_config.model_config.hf_config.to_dict()
        model = parse_model_config(raw)
        self._vocab_size = model.vocab_size
        self._fingerprint = fingerprint(model, parse_guard_config(raw))

    def parse_data(self, data: object) -> list[int]:
        """Check a request's `data`: {"token_ids": [...]}."""
        ids = data.get("token_ids") if isinstance(data, Mapping) and data.keys() == {"token_ids"} else None
        if not isinstance(ids, list) or not ids:
            raise VLLMValidationError('data must be {"token_ids": [...]} with at least one id', parameter="data")
        if any(type(token_id) is not int or not 0 <= token_id < self._vocab_size for token_id in ids):
            raise VLLMValidationError(
                f"token_ids must be whole numbers from 0 to {self._vocab_size - 1}", parameter="data"
            )
        return ids

    def merge_pooling_params(self, params: PoolingParams | None = None) -> PoolingParams:
        """Say that a text's beginning may come from the cache."""
        del params  # a client may set none of these
        return PoolingParams(task="token_classify", use_activation=True, skip_reading_prefix_cache=False)

    def pre_process(self, prompt: list[int], request_id: str | None = None, **kwargs: Any) -> Any:  # Any: the interface
        """Make the prompt of a request."""
        del request_id, kwargs
        return {"prompt_token_ids": prompt}

    def post_process(
        self,
        model_output: Sequence[PoolingRequestOutput],
        request_id: str | None = None,
        **kwargs: Any,  # Any: the interface
    ) -> dict[str, Any]:
        """Make the answer: probabilities as little-endian float32, row by row, in base64."""
        del request_id, kwargs
        (output,) = model_output
        rows = output.outputs.data.float().cpu().contiguous().numpy().astype("<f4")
        return {
            "guard": self._fingerprint,
            "num_cached": output.num_cached_tokens,
            "labels": rows.shape[1],
            "probabilities": base64.b64encode(rows.tobytes()).decode("ascii"),
        }
