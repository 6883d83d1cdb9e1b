"""Rebuilds the Hugging Face tokenizer of SmolLM2 from the metadata of its GGUF file."""

from pathlib import Path

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from streamward.errors import CheckpointError

_PREFIX = "tokenizer.ggml."


def smollm2_tokenizer(gguf_path: Path) -> Tokenizer:
    """Build SmolLM2's byte-level BPE, equal in ids to the `tokenizer.json` its makers publish.

    Raises:
        CheckpointError: The file is missing, is no GGUF, or carries another kind of tokenizer.
    """
    metadata = _read_metadata(gguf_path)
    kind = (metadata["model"], metadata["pre"])
    if kind != ("gpt2", "smollm"):
        raise CheckpointError(f"{gguf_path} carries the tokenizer {kind}; expected ('gpt2', 'smollm')")
    tokens: list[str] = metadata["tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["merges"]]
    control = [
        token
        for token, token_type in zip(tokens, metadata["token_type"], strict=True)
        if token_type == TokenType.CONTROL
    ]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def _read_metadata(gguf_path: Path) -> dict[str, object]:
    try:
        fields = GGUFReader(gguf_path).fields
        return {name: fields[_PREFIX + name].contents() for name in ("model", "pre", "tokens", "merges", "token_type")}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{gguf_path} cannot be read as a GGUF file with a tokenizer: {error}") from error
