"""A Gen guard small enough for tests, with random weights in float32, and the same judgement the long way."""

from collections.abc import Sequence

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from streamward.generative.local import LocalGenGuard
from streamward.generative.torch_lm import TorchLanguageModel
from streamward.model.config import ModelConfig
from streamward.model.decoder import dense_hidden
from streamward.model.guard_model import CausalLM
from streamward.schema import Message, Role
from streamward.tokenizer import GuardTokenizer

LEVELS = ("Safe", "Unsafe", "Controversial")
PROMPT_CATEGORIES = (
    "Violent",
    "Non-violent Illegal Acts",
    "Sexual Content or Sexual Acts",
    "PII",
    "Suicide & Self-Harm",
    "Unethical Acts",
    "Politically Sensitive Topics",
    "Copyright Violation",
    "Jailbreak",
)
RESPONSE_CATEGORIES = PROMPT_CATEGORIES[:-1]
TEMPLATE = (
    "<|im_start|>user\nJudge the last {{ messages[-1].role }}.\n"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}<|im_end|>\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
USER = Message(Role.USER, "What is the weather like?")
ASSISTANT = Message(Role.ASSISTANT, "It rains.")


def byte_tokenizer() -> GuardTokenizer:
    """One token a byte and some merges: ` Safe` is one token, ` Unsafe` two, ` S` begins two categories."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("S", "a"), ("f", "e"), ("Sa", "fe"), ("\u0120", "Safe"), ("U", "n"), ("\u0120", "Un"), ("s", "a")]
    merges += [("sa", "fe"), ("\u0120", "S"), ("\u0120", "P"), ("a", "l"), ("i", "o"), ("io", "n")]
    vocabulary = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    markers = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
    tokenizer.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in markers])
    return GuardTokenizer(tokenizer, TEMPLATE)


def random_model(seed: int, *, max_positions: int = 1024, vocab_size: int = 288) -> CausalLM:
    """Two layers whose logits are sharp enough that answers differ from text to text."""
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=vocab_size,
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
    model = CausalLM(config)
    torch.nn.init.normal_(model.lm_head.get_parameter("weight"), std=0.4)
    return model.eval()


def gen_guard(seed: int = 0, *, max_positions: int = 1024) -> LocalGenGuard:
    return LocalGenGuard(TorchLanguageModel(random_model(seed, max_positions=max_positions)), byte_tokenizer())


@torch.no_grad()
def log_probs_by_full_pass(model: CausalLM, ids: Sequence[int]) -> torch.Tensor:
    """Logarithmic probabilities behind each token, [T, vocabulary], without any cache."""
    return model.logits(dense_hidden(model.decoder, torch.tensor([ids]))[0]).double().log_softmax(-1)


def greedy_word(model: CausalLM, ids: list[int], paths: dict[str, list[int]]) -> str:
    """Generate greedily, token by token over the whole text again, allowing only what can still become a word."""
    written: list[int] = []
    while written not in paths.values():
        allowed = sorted({path[len(written)] for path in paths.values() if path[: len(written)] == written})
        logits = log_probs_by_full_pass(model, ids + written)[-1]
        written.append(allowed[int(logits[allowed].argmax())])
    ids += written
    return next(word for word, path in paths.items() if path == written)


def word_shares(model: CausalLM, ids: list[int], paths: dict[str, list[int]]) -> dict[str, float]:
    """Multiply the probabilities of each word's tokens, each among the tokens that were allowed in its place."""
    shares = {}
    for word, path in paths.items():
        log_probs = log_probs_by_full_pass(model, ids + path)[len(ids) - 1 : -1]
        shares[word] = 1.0
        for depth, token in enumerate(path):
            allowed = sorted({other[depth] for other in paths.values() if other[:depth] == path[:depth]})
            shares[word] *= float(log_probs[depth][allowed].softmax(0)[allowed.index(token)])
    return shares
