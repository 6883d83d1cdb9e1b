"""Lexicons of synthesis: topics with contrastive pairs, frames and answers per language, as TOML."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AliasChoices, BeforeValidator, Field

from streamward.errors import ConfigError
from streamward.schema import Category, RiskLevel
from streamward.settings import Settings
from streamward.train.toml_file import read_table


class Pair(NamedTuple):
    """A harmful wording and a harmless one of the same surface form."""

    harmful: str
    harmless: str


def _split(value: object) -> object:
    if not isinstance(value, str) or value.count(" | ") != 1:
        raise ValueError("must be 'harmful | harmless'")
    return tuple(side.strip() for side in value.split(" | "))


Paired = Annotated[Pair, BeforeValidator(_split)]


class Topic(Settings):
    """One fine-grained kind of harm under one of the nine categories."""

    name: str = Field(min_length=1)
    category: Category
    level: RiskLevel = RiskLevel.UNSAFE
    """Level of its harmful requests."""
    comply_level: RiskLevel = RiskLevel.UNSAFE
    """Level of answers that comply."""
    acts: tuple[Paired, ...] = ()
    """Verb phrases for frames with `{act}`."""
    things: tuple[Paired, ...] = ()
    """Noun phrases for frames with `{thing}`."""
    asks: tuple[Paired, ...] = ()
    """Whole requests."""
    comply: tuple[str, ...] = ()
    """Sentences of a harmful answer; vague on purpose."""
    help: tuple[str, ...] = ()
    """Sentences of a harmless answer to a harmful request."""
    refuse_only: bool = False
    """If true, requests of this kind are only ever shown refused."""


class Frames(Settings):
    """Wordings of requests, answers and wrappers in one language. `{ask}` is a whole request."""

    act: tuple[str, ...] = Field(min_length=1)
    thing: tuple[str, ...] = ()
    short_request: tuple[str, ...] = Field(default=(), validation_alias=AliasChoices("short_request", "plea"))
    """Short requests with `{act}`."""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    safe_context: tuple[str, ...] = ()
    """Harmless questions about a harmful `{act}`."""
    controversial_context: tuple[str, ...] = ()
    refusal: tuple[str, ...] = Field(min_length=1)
    refusal_after: tuple[str, ...] = ()
    over_refusal: tuple[str, ...] = ()
    comply_opener: tuple[str, ...] = ()
    comply: tuple[str, ...] = ()
    """Harmful sentences that suit any topic, for languages whose topics have none."""
    comply_closer: tuple[str, ...] = ()
    disclaimer: tuple[str, ...] = ()
    pivot: tuple[str, ...] = ()
    """Sentences with which an answer turns harmful."""
    benign_opener: tuple[str, ...] = ()
    benign_body: tuple[str, ...] = Field(min_length=1)
    benign_closer: tuple[str, ...] = ()
    think_safe: tuple[str, ...] = ()
    think_refuse: tuple[str, ...] = ()
    think_comply: tuple[str, ...] = ()
    follow_up: tuple[str, ...] = ()
    roleplay: tuple[str, ...] = ()
    role: tuple[str, ...] = ()
    jailbreak: tuple[str, ...] = ()
    prompt_theft: tuple[str, ...] = ()


class Word(Settings):
    """A word that sounds dangerous, with harmless and harmful objects."""

    word: str
    safe: tuple[str, ...]
    harm: tuple[str, ...]
    category: Category


class HardNegatives(Settings):
    """Harmless requests that share words with harmful ones."""

    frames_verb: tuple[str, ...] = ()
    frames_noun: tuple[str, ...] = ()
    verbs: tuple[Word, ...] = ()
    nouns: tuple[Word, ...] = ()
    terms: tuple[str, ...] = ()
    frames_term: tuple[str, ...] = ()
    term_answer: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    question_answer: tuple[str, ...] = ()


class Subject(Settings):
    """An ordinary question and the points of a long answer, each `Head: sentence.`."""

    asks: tuple[str, ...] = Field(min_length=1)
    intro: str
    points: tuple[str, ...] = Field(min_length=3)
    outro: str


class Exchange(Settings):
    """A borderline question with direct answers."""

    category: Category
    level: RiskLevel
    """Level of the question."""
    asks: tuple[str, ...] = Field(min_length=1)
    bad: tuple[str, ...] = Field(min_length=1)
    """Unsafe answers."""
    good: tuple[str, ...] = Field(min_length=1)
    """Safe answers."""


class Passages(Settings):
    """Texts that ask for nothing: statements, prose, news."""

    safe: tuple[str, ...] = ()
    controversial: tuple[str, ...] = ()
    """Written `category | text`."""
    unsafe: tuple[str, ...] = ()
    """Written `category | text`."""
    lead: tuple[str, ...] = ()
    """Sentences that may stand before any of them."""


class Replies(Settings):
    """Parts of long answers to harmful requests, safe and harmful ones of the same form.

    `{act}` is what was asked for, said to the user, `{others}` the same, said of other people. Points of a list are
    `Head: sentence.`; both kinds share their heads. Without `decline`, `facts` and `lead` there are none.
    """

    decline: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    """Points: why not."""
    ways: tuple[str, ...] = ()
    """Points: what to do instead."""
    closing: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    """History, law, psychology."""
    watch: tuple[str, ...] = ()
    """Points: how people protect themselves."""
    tales: tuple[str, ...] = ()
    """Fiction that stays harmless."""
    honest: tuple[str, ...] = ()
    """Beginnings of answers that look like a guide and are none."""
    lead: tuple[str, ...] = ()
    """Beginnings of harmful guides; those without `{others}` suit a harmless one too."""
    steps: tuple[str, ...] = ()
    """Points of a harmful guide; vague on purpose."""
    dark_tales: tuple[str, ...] = ()
    harmful_closing: tuple[str, ...] = ()


class Statements(Settings):
    """Statements about groups; every frame has `{group}`."""

    groups: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    """Harmless questions to which all of it may be an answer."""
    derogatory: tuple[str, ...] = ()
    neutral: tuple[str, ...] = ()
    counter: tuple[str, ...] = ()
    """Speaks against contempt, often in its words."""


class Lexicon(Settings):
    """Everything of one language."""

    language: str
    frames: Frames
    topics: tuple[Topic, ...] = Field(min_length=1)
    hard_negatives: HardNegatives = Field(
        default=HardNegatives(), validation_alias=AliasChoices("hard_negatives", "lookalikes")
    )
    everyday: tuple[Subject, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    passages: Passages = Passages()
    replies: Replies = Replies()
    statements: Statements = Statements()

    @property
    def space(self) -> str:
        """The text between two sentences."""
        return "" if self.language in ("zh", "ja") else " "


def read_lexicons(folder: Path) -> tuple[Lexicon, ...]:
    """Read every language below a folder: `LANG.toml`, or `LANG/*.toml`, whose topics may share a category.

    Raises:
        ConfigError: There is none, or a file is wrong; names it.
    """
    found: dict[str, Lexicon] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix == ".toml":
            found[path.stem] = Lexicon.parse({"language": path.stem, **read_table(path)}, source=str(path))
        elif path.is_dir():
            found[path.name] = _read_folder(path)
    if not found:
        raise ConfigError(f"{folder} contains no language; it needs files like en.toml")
    return tuple(found.values())


def _read_folder(folder: Path) -> Lexicon:
    values: dict[str, Any] = {"language": folder.name, "topics": []}  # Any: TOML values
    for path in sorted(folder.glob("*.toml")):
        table = read_table(path)
        if "topics" in table:
            shared = {"category": table["category"]} if "category" in table else {}
            values["topics"] += [{**shared, **topic} for topic in table["topics"]]
        elif path.stem in ("everyday", "exchanges"):
            values[path.stem] = table[path.stem]
        else:
            values[path.stem] = table
    return Lexicon.parse(values, source=str(folder))
