"""Settings of a training run: one TOML file."""

from pathlib import Path
from typing import Literal, Self

from pydantic import AliasChoices, Field

from streamward.settings import Settings
from streamward.train.toml_file import read_config

Use = Literal["as-is", "response-alone", "prompt-as-response", "response-as-prompt"]
"""The part of a row that is read, and its side; see `SourceConfig.use`."""


class TomlSettings(Settings):
    """Settings of one run: one TOML file."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises:
            ConfigError: The file is missing, is not TOML, or a key is wrong.
        """
        return read_config(cls, path)


class SourceConfig(Settings):
    """One data file of the mixture."""

    file: str
    """File below `data_root`, or below the working directory if it begins with `./`: `.jsonl` or `.jsonl.gz`."""
    max_rows: int | None = Field(default=None, gt=0)
    """Rows drawn at random; all by default."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of a row of this source in the loss."""
    languages: tuple[str, ...] = ()
    """Only rows of these languages; all by default."""
    use: Use = "as-is"
    """Side on which the text is read: responses without their prompts teach the response heads to look at the words;
    marked comments on the response's side where harm starts; harmless answers on the prompt's side what harmless prose
    looks like."""

    prompts: str | None = None
    """File, found like `file`, whose prompts take the place of the rows' own, without their labels: an answer is what
    it is whatever was asked, and should be judged so. Rows without a response keep their prompt."""
    labels: str | None = None
    """File of labels by row id, found like `file`; they go before the labels of the rows. Rows without any are left
    out, so that a share of an unlabelled file can be used."""
    learn: bool = True
    """If true, the run learns from its rows; else only those held out are used, for the operating point."""


def data_path(file: str, data_root: Path) -> Path:
    """Return where a data file is: below the working directory if it begins with `./`, else below `data_root`."""
    return Path(file) if file.startswith("./") else data_root / file


class LoraConfig(Settings):
    """Low-rank updates of the decoder's projections (Hu et al., arXiv 2106.09685)."""

    rank: int = Field(default=32, gt=0)
    alpha: float = Field(default=64.0, gt=0)


class CueLimits(Settings):
    """Limits on how surely a surface cue may predict the labels of the training rows; see `train audit-cues`."""

    refuse: bool = True
    """If true, a run ends before its first step where a cue exceeds the limits."""
    max_label_precision: float = Field(default=0.95, gt=0, le=1)
    """Highest lower bound of the share of harmful texts among those with the cue."""
    max_onset_precision: float = Field(default=0.35, gt=0, le=1)
    """The same for sentences of responses: in how many of those that open so harm begins."""
    min_rows: int = Field(default=30, gt=0)
    """A cue in fewer rows or sentences is not counted."""


class RunConfig(TomlSettings):
    """The settings that every training run states: base, data, length and rate."""

    name: str
    """Name of the guard, also of its folder below `output_root`."""
    base: str = "SmolLM2-135M-Instruct"
    """The embedded base, or a folder in Hugging Face layout."""
    init: str | None = None
    """A guard trained before whose weights this run starts from: an embedded guard or a folder. It has the same shape,
    or more layers, of which the lowest are taken."""
    num_layers: int | None = Field(default=None, gt=0)
    """Layers of the base to keep, from the bottom; all by default."""
    frozen_layers: int = Field(default=0, ge=0)
    """Lowest layers whose updates stay as `init` has them: a step is shorter, and what they found stays found."""
    data_root: Path
    overlay_root: Path | None = None
    """Folder with labelled files of other stages: those found there are read instead."""
    output_root: Path = Path("runs")
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    cues: CueLimits = CueLimits()
    lora: LoraConfig = LoraConfig()
    window_tokens: int = Field(default=1024, gt=64)
    """Longest text the finished guard judges at once; longer ones are judged in overlapping windows."""
    max_tokens: int = Field(default=512, gt=8)
    """Maximum number of tokens per row; a longer row is cut at its end."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens of one optimiser step, padding included; of one process, where several share the work."""
    epochs: float = Field(default=1.0, gt=0)
    lr: float = Field(default=4e-4, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    decay_fraction: float = Field(default=0.3, ge=0, le=1)
    """Last part of the run, in which the rate falls linearly to zero; constant before."""
    category_loss_weight: float = Field(default=0.3, ge=0)
    safe_weight: float = Field(default=1.0, gt=0)
    """Factor on rows whose label is Safe: above 1 makes a loose guard, below 1 a strict one."""
    fold: Literal["A", "B"] | None = Field(default=None, validation_alias=AliasChoices("fold", "half"))
    """Learn from this half of the rows only; the other half is for a guard that must not have seen them."""
    variant_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training rows that are read with another connective, letter case or end mark; see `variants.py`."""
    validation_fraction: float = Field(default=0.04, gt=0, lt=0.5)
    """Groups held out for thresholds and reporting."""
    benign_traffic_sources: tuple[str, ...] = Field(
        default=(), validation_alias=AliasChoices("benign_traffic_sources", "ordinary_sources")
    )
    """Files whose held-out safe rows stand for ordinary traffic."""
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU where there is one."""
    compile: Literal["auto"] | bool = "auto"
    """If true, the small operations of a layer are compiled: it takes half a minute and a C++ compiler, and makes a
    step on a CPU shorter. Less is rounded to bfloat16 on the way, so losses differ in the third or fourth digit. With
    `auto` on a CPU, in runs of 300,000 tokens or more, where it works; `true` ends the run where it does not."""
    seed: int = 0

    def source_path(self, source: SourceConfig) -> Path:
        """Return where a source's file is read."""
        if self.overlay_root is not None and (self.overlay_root / source.file).exists():
            return self.overlay_root / source.file
        return data_path(source.file, self.data_root)


class StreamTrainConfig(RunConfig):
    """`streamward train stream`: a Stream guard over a base decoder."""

    inner_size: int = Field(default=256, gt=0)
    """Width of the heads."""
    head_lr: float = Field(default=1e-3, gt=0)
    response_loss_weight: float = Field(default=1.0, ge=0)
    unmarked_onset: Literal["second-half", "ramp"] = "second-half"
    """Weight of the tokens of an unsafe response where nobody marked its onset. `second-half`: the first half a
    quarter of the second. `ramp`: the square of their place, from next to nothing at the start, so that the prompt
    alone does not raise the risk of the answer's first tokens."""
    uses_marks: bool = True
    """If true, marks of where a response turns harmful are used; else every unsafe response counts as unmarked."""
    worst_token_loss_weight: float = Field(
        default=0.0, ge=0, le=1, validation_alias=AliasChoices("worst_token_loss_weight", "alarm_weight")
    )
    """Share of the loss of a response's safe tokens that goes to the riskiest of them alone: one false alarm stops an
    answer, however safe the rest of it is."""
    monotonicity_loss_weight: float = Field(
        default=0.0, ge=0, validation_alias=AliasChoices("monotonicity_loss_weight", "flicker_weight")
    )
    """Weight of a term against risk that falls from one response token to the next."""
    max_false_positive_rate: float = Field(default=0.03, gt=0, lt=1)
    """On held-out ordinary traffic, at the operating point."""
    max_safe_prompt_rate: float = Field(default=0.08, gt=0, lt=1)
    """Share of all held-out safe prompts, look-alikes of harmful ones among them, that may be flagged."""
    max_safe_response_rate: float = Field(default=0.05, gt=0, lt=1)
    """The same for responses, where a false alarm cuts an answer short."""
    min_calibration_rows: int = Field(default=0, ge=0)
    """A side with fewer held-out rows keeps the operating point of `init`."""


class GenTrainConfig(RunConfig):
    """`streamward train gen`: a Gen guard, taught to answer its own instruction."""

    refusal_loss_weight: float = Field(default=0.5, ge=0)
    refusals_by_wording: bool = False
    """If true, English rows that do not say if their response refuses are read by its wording; see `refusals.py`."""
    frame_loss_weight: float = Field(default=0.05, ge=0)
    """Weight of the answer's fixed words, beside 1 for its level."""
    max_refusal_checks: int = Field(default=400, ge=0)
    """Held-back rows asked for the refusal, one after the other, for the report."""
