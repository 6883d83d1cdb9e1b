"""Rebuilds the Hugging Face tokenizers of SmolLM2 and Gemma 3 from the metadata of their GGUF files."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from streamward.errors import CheckpointError

Merge = tuple[str, str]
_SPACE = "\u2581"  # stands for a blank in SentencePiece vocabularies
_RUNS = (_SPACE, "\n", "\t")  # characters whose repetitions have tokens of their own
# A word begins with at most one blank; more of them, line breaks and tabs stand alone. No token crosses these bounds.
_WORDS = rf"{_SPACE}{{2,}}|\n+|\t+|{_SPACE}?[^{_SPACE}\n\t]+|{_SPACE}"


def read_tokenizer(gguf_path: Path) -> Tokenizer:
    """Build the tokenizer that a GGUF file of SmolLM2 or Gemma 3 describes.

    Raises:
        CheckpointError: The file is missing, is no GGUF, or carries another kind of tokenizer.
    """
    metadata = _read_metadata(gguf_path)
    kind = (metadata["model"], metadata["pre"])
    if kind == ("gpt2", "smollm"):
        return _byte_level_bpe(metadata)
    if kind == ("llama", "default") and metadata["tokens"][:3] == ["<pad>", "<eos>", "<bos>"]:
        return sentencepiece_bpe(metadata)
    raise CheckpointError(f"{gguf_path} carries the tokenizer {kind}; expected that of SmolLM2 or Gemma 3")


def _byte_level_bpe(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build SmolLM2's tokenizer, equal in ids to the `tokenizer.json` its makers publish.

    21 bytes (rare control characters, and bytes that begin no assigned character) are not in its vocabulary; it drops
    them.
    """
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in metadata["merges"])]
    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary(metadata), merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_control_tokens(metadata))
    return tokenizer


def sentencepiece_bpe(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build Gemma 3's tokenizer: BPE over characters, in the order of the scores, and bytes for what is not known.

    Repeated blanks, line breaks and tabs become the longest token there is, as in SentencePiece; the few HTML tags
    that its vocabulary has as whole tokens are read in parts, so that the text of a user is data only.

    Args:
        metadata: `tokens`, `scores` and `token_type` of the GGUF format, one of each per token.
    """
    vocabulary = {_escaped(token): index for token, index in _vocabulary(metadata).items()}
    scored = [
        (token, score)
        for token, score, kind in zip(metadata["tokens"], metadata["scores"], metadata["token_type"], strict=True)
        if kind == TokenType.NORMAL
    ]
    merges = [*_run_merges(vocabulary), *_scored_merges(scored)]
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(_control_tokens(metadata))
    return tokenizer


def _escaped(token: str) -> str:
    return token.replace(" ", _SPACE) if token.isspace() else token


def _vocabulary(metadata: Mapping[str, Any]) -> dict[str, int]:
    return {token: index for index, token in enumerate(metadata["tokens"])}


def _control_tokens(metadata: Mapping[str, Any]) -> list[AddedToken]:
    return [
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(metadata["tokens"], metadata["token_type"], strict=True)
        if kind == TokenType.CONTROL
    ]


def _run_merges(vocabulary: Mapping[str, int]) -> Iterator[Merge]:
    """Yield merges of repeated characters, shorter results first, so that a run ends as one token."""
    for length in range(2, max(map(len, vocabulary)) + 1):
        for character in _RUNS:
            if character * length in vocabulary:
                for left in range(1, length):
                    yield character * left, character * (length - left)


def _scored_merges(scored: list[tuple[str, float]]) -> list[Merge]:
    """Return every way to join two tokens into a third; the better the third's score, the earlier."""
    known = {token: index for index, (token, _) in enumerate(scored)}
    found: list[tuple[float, int, int, Merge]] = []
    for token, score in scored:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in known and right in known:
                found.append((-score, known[left], known[right], (left, right)))
    found.sort(key=lambda each: each[:3])
    return [merge for *_, merge in found]


def _read_metadata(gguf_path: Path) -> dict[str, Any]:  # Any: lists of strings and numbers, which the format fixes
    names = ("model", "pre", "tokens", "token_type")
    try:
        fields = GGUFReader(gguf_path).fields
        values = {name: fields[f"tokenizer.ggml.{name}"].contents() for name in names}
        for name in ("merges", "scores"):  # a tokenizer has one of them
            if f"tokenizer.ggml.{name}" in fields:
                values[name] = fields[f"tokenizer.ggml.{name}"].contents()
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{gguf_path} cannot be read as a GGUF file with a tokenizer: {error}") from error
    return values
