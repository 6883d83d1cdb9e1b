"""Settings of a training run: one TOML file."""

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from streamward.errors import ConfigError
from streamward.settings import Settings


class SourceConfig(Settings):
    """One data file of the mixture."""

    file: str
    """File below `data_root`, or below the working directory if it begins with `./`: `.jsonl` or `.jsonl.gz`."""
    max_rows: int | None = Field(default=None, gt=0)
    """Rows drawn at random; all by default."""
    weight: float = Field(default=1.0, gt=0)
    """What a row of this source counts in the loss."""
    languages: tuple[str, ...] = ()
    """Only rows of these languages; all by default."""
    use: Literal["as-is", "prompt-as-response", "response-as-prompt"] = "as-is"
    """Whether to move the text to the other side: marked comments teach the response heads where harm starts,
    harmless answers teach the prompt heads what harmless prose looks like."""

    learn: bool = True
    """Whether to learn from its rows; else only those held back are used, for the operating point."""

    def path(self, data_root: Path) -> Path:
        """Return where the file is."""
        return Path(self.file) if self.file.startswith("./") else data_root / self.file


class LoraConfig(Settings):
    """Low-rank updates of the decoder's projections (Hu et al., arXiv 2106.09685)."""

    rank: int = Field(default=32, gt=0)
    alpha: float = Field(default=64.0, gt=0)


class StreamTrainConfig(Settings):
    """`streamward train stream`: a Stream guard over a base decoder."""

    name: str
    """Name of the guard, also of its folder below `output_root`."""
    base: str = "SmolLM2-135M-Instruct"
    """The embedded base, or a folder in Hugging Face layout."""
    init: Path | None = None
    """Folder of a guard trained before, of the same shape, whose weights this run starts from."""
    num_layers: int | None = Field(default=None, gt=0)
    """Layers of the base to keep, from the bottom; all by default."""
    inner_size: int = Field(default=256, gt=0)
    """Width of the heads."""
    data_root: Path
    output_root: Path = Path("runs")
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    lora: LoraConfig = LoraConfig()
    window_tokens: int = Field(default=1024, gt=64)
    """Longest text the finished guard judges at once; longer ones are judged in overlapping windows."""
    max_tokens: int = Field(default=512, gt=8)
    """Tokens of one row; a longer row keeps its beginning."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens of one optimiser step, padding included."""
    epochs: float = Field(default=1.0, gt=0)
    lr: float = Field(default=4e-4, gt=0)
    head_lr: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    decay_fraction: float = Field(default=0.3, ge=0, le=1)
    """Last part of the run, in which the rate falls linearly to zero; constant before."""
    category_loss_weight: float = Field(default=0.3, ge=0)
    response_loss_weight: float = Field(default=1.0, ge=0)
    unmarked_onset: Literal["second-half", "ramp"] = "second-half"
    """What the tokens of an unsafe response count where nobody marked its onset. `second-half`: in the first half a
    quarter of what they count in the second. `ramp`: the square of their place, from next to nothing at the start, so
    that the prompt alone does not raise the risk of the answer's first tokens."""
    validation_fraction: float = Field(default=0.04, gt=0, lt=0.5)
    """Groups held back for thresholds and reporting."""
    max_false_positive_rate: float = Field(default=0.03, gt=0, lt=1)
    """On held-back ordinary traffic, at the operating point."""
    max_safe_prompt_rate: float = Field(default=0.08, gt=0, lt=1)
    """Share of all held-back safe prompts, look-alikes of harmful ones among them, that may be flagged."""
    max_safe_response_rate: float = Field(default=0.05, gt=0, lt=1)
    """The same for responses, where a false alarm cuts an answer short."""
    ordinary_sources: tuple[str, ...] = ()
    """Files whose held-back safe rows stand for ordinary traffic."""
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    seed: int = 0

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises:
            ConfigError: The file is missing, is not TOML, or a key is wrong.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        return cls.parse(values, source=str(path))
