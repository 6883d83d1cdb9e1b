"""A Gen guard small enough for tests, with random weights."""

import torch

from streamward.generative.local import LocalGenGuard
from streamward.generative.torch_lm import TorchLanguageModel
from streamward.model.config import ModelConfig
from streamward.model.guard_model import CausalLM
from streamward.tokenizer import GuardTokenizer
from tests.moderation.guards import byte_tokenizer

GEN_TEMPLATE = (
    "<|im_start|>user\nJudge the last {{ messages[-1].role }} turn.\n"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}<|im_end|>\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)


def random_lm(seed: int, *, max_positions: int = 1024) -> CausalLM:
    """Two layers; the weights are wide enough that seeds disagree."""
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=288,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=48,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        max_positions=max_positions,
        has_tied_embeddings=False,
        has_qk_norm=True,
    )
    model = CausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def gen_tokenizer() -> GuardTokenizer:
    """One token a byte and some merges, under the template above."""
    return GuardTokenizer(byte_tokenizer(), GEN_TEMPLATE)


def gen_guard(seed: int = 0, *, max_positions: int = 1024) -> LocalGenGuard:
    """The two together."""
    return LocalGenGuard(TorchLanguageModel(random_lm(seed, max_positions=max_positions)), gen_tokenizer())
