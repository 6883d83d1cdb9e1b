"""Stream guards as pooling models of vLLM: per token, the logits of all four heads side by side."""

# Shapes: T tokens of all requests, packed; D hidden size; L labels of all heads.

from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import ColumnParallelLinear, ReplicatedLinear
from vllm.model_executor.layers.pooler.activations import PoolerActivation
from vllm.model_executor.layers.pooler.tokwise import pooler_for_token_classify
from vllm.model_executor.models.interfaces import SupportsPP
from vllm.model_executor.models.interfaces_base import default_pooling_type
from vllm.model_executor.models.llama import LlamaModel
from vllm.model_executor.models.qwen3 import Qwen3Model
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, maybe_prefix
from vllm.sequence import IntermediateTensors

from streamward.errors import CheckpointError
from streamward.model.config import ModelConfig, parse_model_config
from streamward.model.guard_config import GuardConfig, parse_guard_config
from streamward.model.heads import with_offset
from streamward.schema import Side
from streamward.vllm.layout import head_widths

_HEAD_NAMES = {  # published name -> name here
    f"{side}{published}.": f"{heads}.{name}."
    for side, heads in (("", "response_heads"), ("query_", "prompt_heads"))
    for published, name in (
        ("risk_level_category_pre", "pre"),
        ("risk_level_category_layernorm", "norm"),
        ("risk_level_head", "risk"),
        ("category_head", "category"),
    )
}


class HeadSoftmax(PoolerActivation):  # type: ignore[misc]  # vLLM is not there when types are checked
    """Probabilities of each head; what clients get unless they ask for `use_activation: false`."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = widths

    def forward_chunk(self, pooled_data: Tensor) -> Tensor:
        """Take logits [T, L] to probabilities [T, L], each head by itself."""
        return torch.cat([logits.softmax(dim=-1) for logits in pooled_data.split(self.widths, dim=-1)], dim=-1)


class VllmHeads(nn.Module):
    """Risk level and category of each token on one side, as `model.heads.SideHeads` has them."""

    def __init__(self, side: Side, *, guard: GuardConfig, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        labels, offsets = guard.labels(side), guard.risk_offsets.get(side)
        self.risk_offset_R = None if offsets is None else torch.tensor(offsets, device="cpu")
        inner = guard.inner_size
        self.pre = ColumnParallelLinear(
            config.hidden_size,
            inner,
            bias=False,
            gather_output=True,  # the norm needs the whole hidden state
            params_dtype=dtype,
            return_bias=False,
        )
        self.norm = RMSNorm(inner, eps=config.rms_norm_eps, dtype=dtype)
        self.risk = _plain_linear(inner, len(labels.risk_levels), dtype)
        self.category = _plain_linear(inner, len(labels.categories), dtype)

    def forward(self, hidden_TD: Tensor) -> list[Tensor]:
        """Return the logits of both heads."""
        x_TI = self.norm(self.pre(hidden_TD))
        return [with_offset(self.risk(x_TI), self.risk_offset_R), self.category(x_TI)]


class _GuardModel(nn.Module, SupportsPP):  # type: ignore[misc]
    """A decoder of vLLM with the heads of Qwen3Guard-Stream.

    The heads run inside the forward pass, on all ranks, in `head_dtype` (float32 unless overridden): the pooler runs on
    one rank only, and keeps a few logits of a long text's earlier chunks instead of their hidden states.
    """

    is_pooling_model = True
    packed_modules_mapping: ClassVar = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    def __init__(self, decoder: nn.Module, *, vllm_config: VllmConfig) -> None:
        super().__init__()
        raw = vllm_config.model_config.hf_config.to_dict()
        config, guard = parse_model_config(raw), parse_guard_config(raw)  # these refuse weights that are not known here
        self.model = decoder
        self.head_dtype = vllm_config.model_config.head_dtype
        self.response_heads = VllmHeads(Side.RESPONSE, guard=guard, config=config, dtype=self.head_dtype)
        self.prompt_heads = VllmHeads(Side.PROMPT, guard=guard, config=config, dtype=self.head_dtype)
        self.make_empty_intermediate_tensors = decoder.make_empty_intermediate_tensors
        self.pooler = pooler_for_token_classify(
            vllm_config.model_config.pooler_config, act_fn=HeadSoftmax(head_widths(guard))
        )

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Return the embeddings of token ids."""
        return self.model.embed_input_ids(input_ids)  # type: ignore[no-any-return,operator]  # a module's attribute

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor | IntermediateTensors:
        """Return the logits [T, L] of all heads, in the order of `layout.head_widths`."""
        hidden_TD = self.model(input_ids, positions, intermediate_tensors, inputs_embeds)
        if isinstance(hidden_TD, IntermediateTensors):  # the next stage of the pipeline goes on
            return hidden_TD
        hidden_TD = hidden_TD.to(self.head_dtype)
        return torch.cat([*self.response_heads(hidden_TD), *self.prompt_heads(hidden_TD)], dim=-1)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load tensors by their published names; a language-model head is left aside.

        Raises:
            CheckpointError: A tensor is neither of a decoder nor of the heads.
        """
        mapper = WeightsMapper(orig_to_new_prefix=_HEAD_NAMES)
        loaded: set[str] = AutoWeightsLoader(self).load_weights(_known(weights), mapper=mapper)
        return loaded


def _plain_linear(in_features: int, out_features: int, dtype: torch.dtype) -> nn.Module:
    layer: nn.Module = ReplicatedLinear(in_features, out_features, bias=False, params_dtype=dtype, return_bias=False)
    return layer


def _known(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Pass on the decoder's and the heads' tensors. vLLM would leave an unknown bias out without a word."""
    heads = {f"{name}weight" for name in _HEAD_NAMES}
    for name, tensor in weights:
        if name.startswith("lm_head."):
            continue
        if not name.startswith("model.") and name not in heads:
            raise CheckpointError(f"the checkpoint has {name}, which no Stream guard has")
        yield name, tensor


@default_pooling_type(tok_pooling_type="ALL")
class Qwen3ForGuardModel(_GuardModel):
    """Qwen3Guard-Stream, and our own guards of the Qwen3 family."""

    hf_to_vllm_mapper = Qwen3Model.hf_to_vllm_mapper

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        decoder = Qwen3Model(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        super().__init__(decoder, vllm_config=vllm_config)


@default_pooling_type(tok_pooling_type="ALL")
class LlamaForGuardModel(_GuardModel):
    """Our own guards of the Llama family."""

    hf_to_vllm_mapper = LlamaModel.hf_to_vllm_mapper

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        decoder = LlamaModel(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        super().__init__(decoder, vllm_config=vllm_config)
