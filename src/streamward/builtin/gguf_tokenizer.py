"""Rebuilds the Hugging Face tokenizer of SmolLM2 from the metadata of its GGUF file."""

from pathlib import Path
from typing import TypedDict, cast

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from streamward.errors import CheckpointError


class _Metadata(TypedDict):
    model: str
    pre: str
    tokens: list[str]
    merges: list[str]
    token_type: list[int]


def smollm2_tokenizer(gguf_path: Path) -> Tokenizer:
    """Build SmolLM2's byte-level BPE, equal in ids to the `tokenizer.json` its makers publish.

    21 bytes (rare control characters, and bytes that begin no assigned character) are not in its vocabulary; it drops
    them.

    Raises:
        CheckpointError: The file is missing, is no GGUF, or carries another kind of tokenizer.
    """
    from gguf import TokenType  # slow to import and read once per machine: kept off the start-up path

    metadata = _read_metadata(gguf_path)
    kind = (metadata["model"], metadata["pre"])
    if kind != ("gpt2", "smollm"):
        raise CheckpointError(f"{gguf_path} carries the tokenizer {kind}; expected ('gpt2', 'smollm')")
    tokens = metadata["tokens"]
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in metadata["merges"])]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [
        AddedToken(token, special=True, normalized=False)
        for token, token_type in zip(tokens, metadata["token_type"], strict=True)
        if token_type == TokenType.CONTROL
    ]
    tokenizer.add_special_tokens(control)
    return tokenizer


def _read_metadata(gguf_path: Path) -> _Metadata:
    from gguf import GGUFReader

    try:
        fields = GGUFReader(gguf_path).fields
        values = {name: fields[f"tokenizer.ggml.{name}"].contents() for name in _Metadata.__annotations__}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{gguf_path} cannot be read as a GGUF file with a tokenizer: {error}") from error
    return cast(_Metadata, values)  # the GGUF format fixes the types of these fields
