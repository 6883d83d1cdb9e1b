"""The weights of torch modules in numpy, and back: for training, benchmarks and parity tests."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamward.model.decoder import Decoder
from streamward.model.guard_model import CausalLM, GuardModel
from streamward.model.parameters import ModelParameters, Weight, module_shapes, parameter_mappings


def parameters_of(model: GuardModel | CausalLM) -> ModelParameters:
    """Return a model's weights as bfloat16 and its norms as float32; copies."""
    return _parameters(model, model.decoder, guard_model=model if isinstance(model, GuardModel) else None)


def decoder_parameters(decoder: Decoder) -> ModelParameters:
    """Return a decoder's weights likewise."""
    holder = nn.Module()
    holder.decoder = decoder
    return _parameters(holder, decoder, guard_model=None)


def load_parameters_into(decoder: Decoder, parameters: ModelParameters) -> None:
    """Give a decoder the weights of `parameters` in its own dtype; 8-bit ones are dequantized."""
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            full = f"decoder.{name}"
            if full in parameters.vectors:
                parameter.copy_(torch.from_numpy(parameters.vectors[full].copy()))
            else:
                parameter.copy_(bfloat16_tensor(parameters.bfloat16(full)))


def bfloat16_tensor(array: NDArray[np.uint16]) -> Tensor:
    """Return bfloat16 in numpy as a tensor; a copy."""
    return torch.from_numpy(array.copy().view("<i2")).view(torch.bfloat16)


def _parameters(model: nn.Module, decoder: Decoder, *, guard_model: GuardModel | None) -> ModelParameters:
    guard = None if guard_model is None else guard_model.guard_config
    has_lm_head = isinstance(model, CausalLM)
    values = dict(model.named_parameters())
    weights: dict[str, tuple[Weight, ...]] = {}
    vectors: dict[str, NDArray[np.float32]] = {}
    for name, shape in module_shapes(parameter_mappings(decoder.config, guard, has_lm_head=has_lm_head)).items():
        value = values[name].detach().cpu()
        if len(shape) == 1:
            vectors[name] = value.float().numpy().copy()
        else:
            weights[name] = (value.bfloat16().contiguous().view(torch.int16).numpy().view(np.uint16).copy(),)
    return ModelParameters(decoder.config, guard, weights, vectors)
