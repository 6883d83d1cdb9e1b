"""Settings of one synthesis run: one TOML file."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from streamward.generative.config import RemoteConfig
from streamward.settings import Settings

Family = Literal[
    "request",
    "short_request",
    "context",
    "dialogue",
    "reply",
    "exchange",
    "hard_negative",
    "everyday",
    "document",
    "jailbreak",
    "roleplay",
    "perturbation",
    "excerpt",
    "unfinished",
    "reasoning",
    "turns",
    "passage",
    "statement",
    "computing",
]
_FORMER_NAMES = {"plea": "short_request", "lookalike": "hard_negative", "disguise": "perturbation"}


def _current_name(family: object) -> object:
    return _FORMER_NAMES.get(family, family) if isinstance(family, str) else family


FamilyKey = Annotated[Family, BeforeValidator(_current_name)]
"""Name of a family; the former names `plea`, `lookalike` and `disguise` are accepted until the next release."""


class WriterConfig(Settings):
    """A model that writes further rows: requests like those of the topics, and answers to them."""

    endpoint: RemoteConfig
    """Give it a `max_tokens` of some hundreds: it writes texts, not verdicts."""
    requests: int = Field(default=0, ge=0)
    """Times it is asked for new pairs of requests."""
    answers: int = Field(default=0, ge=0)
    """Times it is asked for an answer to a request of ours."""
    pairs_per_call: int = Field(default=8, gt=0)
    temperature: float = Field(default=0.9, ge=0)
    max_parallel: int = Field(default=4, gt=0)


class SynthesizeConfig(Settings):
    """`streamward train synthesize`: rows from topics, templates and, if one is given, a model."""

    lexicon: Path
    """Folder of languages; see `datasets/synthesis/README.md`."""
    output: Path
    """`.jsonl` or `.jsonl.gz`; a report with the same stem is written beside it."""
    languages: tuple[str, ...] = ()
    """All by default."""
    rows: dict[str, dict[FamilyKey, int]]
    """Rows wanted, by language and family; `other` stands for the languages that are not named."""
    writer: WriterConfig | None = None
    max_repeats: int = Field(default=3, gt=0)
    """Maximum number of times that one prompt occurs, each time with another response."""
    seed: int = 0
