"""`streamward train synthesize`: from a config file to rows and a report."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from tqdm import tqdm

from streamward.data.jsonl import source_name
from streamward.data.rows import write_rows
from streamward.errors import ConfigError
from streamward.generative.chat_endpoint import ChatEndpoint
from streamward.train.synthesize.answers import dialogue, reasoning, turns
from streamward.train.synthesize.computing import computing
from streamward.train.synthesize.config import Family, SynthesizeConfig
from streamward.train.synthesize.everyday import document, everyday
from streamward.train.synthesize.exchanges import exchange
from streamward.train.synthesize.hard_negatives import hard_negative
from streamward.train.synthesize.lexicon import Lexicon, read_lexicons
from streamward.train.synthesize.passages import passage
from streamward.train.synthesize.replies import reply
from streamward.train.synthesize.report import write_report
from streamward.train.synthesize.requests import context, request, short_request
from streamward.train.synthesize.rows import SyntheticRow
from streamward.train.synthesize.statements import statement
from streamward.train.synthesize.wrappers import excerpt, jailbreak, perturbation, roleplay, unfinished
from streamward.train.synthesize.writer import ModelWriter
from streamward.train.toml_file import read_config

logger = logging.getLogger(__name__)

FAMILIES: Mapping[Family, Callable[[Lexicon, Random], SyntheticRow | None]] = {
    "request": request,
    "short_request": short_request,
    "context": context,
    "dialogue": dialogue,
    "reply": reply,
    "exchange": exchange,
    "hard_negative": hard_negative,
    "everyday": everyday,
    "document": document,
    "jailbreak": jailbreak,
    "roleplay": roleplay,
    "perturbation": perturbation,
    "excerpt": excerpt,
    "unfinished": unfinished,
    "reasoning": reasoning,
    "turns": turns,
    "passage": passage,
    "statement": statement,
    "computing": computing,
}
_TRIES_PER_ROW = 20
_SEED_NAMES: Mapping[Family, str] = {"short_request": "plea", "hard_negative": "lookalike", "perturbation": "disguise"}
"""Former names of families, which seed their draws: a config gives the same rows as before the renaming."""


class Wanted(NamedTuple):
    """Rows wanted of one family in one language."""

    lexicon: Lexicon
    family: Family
    number: int


def run(config_path: Path) -> Path:
    """Make the rows of a run; the same config gives the same rows.

    Returns:
        The file written.

    Raises:
        ConfigError: The settings or a language's files are wrong.
    """
    config = read_config(SynthesizeConfig, config_path)
    lexicons = _chosen(read_lexicons(config.lexicon), config)
    wanted = list(_wanted(lexicons, config))
    rows = list(draw_rows(wanted, config))
    made = Counter((row.language, row.family) for row in rows)
    short = {
        f"{order.lexicon.language} {order.family}": order.number - made[order.lexicon.language, order.family]
        for order in wanted
    }
    stem = source_name(config.output)
    outcomes: Mapping[str, int] = {}
    if config.writer is not None:
        model = ChatEndpoint(
            config.writer.endpoint, name="the writer's endpoint", temperature=config.writer.temperature
        )
        writer = ModelWriter(model, config=config.writer, cache=config.output.with_name(f"{stem}.writer.jsonl"))
        rows += writer.rows(lexicons, seed=config.seed)
        outcomes = writer.outcomes
        model.close()
    write_rows(config.output, (row.as_json(row_id(row)) for row in rows))
    report = config.output.with_name(f"{stem}.report.json")
    logger.info(write_report(report, rows, writer=outcomes, missing={name: gap for name, gap in short.items() if gap}))
    return config.output


def _chosen(lexicons: Sequence[Lexicon], config: SynthesizeConfig) -> tuple[Lexicon, ...]:
    known = {lexicon.language for lexicon in lexicons}
    unknown = sorted(({*config.languages, *config.rows} - {"other"}) - known)
    if unknown:
        raise ConfigError(f"{config.lexicon} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return tuple(lexicon for lexicon in lexicons if not config.languages or lexicon.language in config.languages)


def _wanted(lexicons: Sequence[Lexicon], config: SynthesizeConfig) -> Iterator[Wanted]:
    for lexicon in lexicons:
        numbers = config.rows.get(lexicon.language, config.rows.get("other", {}))
        yield from (Wanted(lexicon, family, number) for family, number in numbers.items())


def draw_rows(wanted: Sequence[Wanted], config: SynthesizeConfig) -> Iterator[SyntheticRow]:
    """Draw the wanted rows, without repeats; fewer where the words run out."""
    seen: Counter[str] = Counter()
    with tqdm(total=sum(order.number for order in wanted), desc="synthesis", unit="row", mininterval=2) as bar:
        for order in wanted:
            for row in _draw_family(order, seen=seen, config=config):
                bar.update()
                yield row


def _draw_family(order: Wanted, *, seen: Counter[str], config: SynthesizeConfig) -> Iterator[SyntheticRow]:
    rng = Random(f"{config.seed}/{order.lexicon.language}/{_SEED_NAMES.get(order.family, order.family)}")
    made = 0
    for _ in range(order.number * _TRIES_PER_ROW):
        if made == order.number:
            return
        row = FAMILIES[order.family](order.lexicon, rng)
        if row is None:
            continue
        prompt, whole = (" ".join(text.lower().split()) for text in (row.prompt, f"{row.prompt}\0{row.response}"))
        if (row.response is None and seen[prompt]) or seen[prompt] >= config.max_repeats or seen[whole]:
            continue
        seen[prompt] += 1
        seen[whole] += 1
        made += 1
        yield row


def row_id(row: SyntheticRow) -> str:
    """Return an id that depends on what the row says."""
    text = "\0".join((row.language, row.prompt, row.response or "", *(turn for _, turn in row.history)))
    return f"syn2-{row.language}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:12]}"
