"""`streamward train synthesize`: from a config file to rows and a report."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from tqdm import tqdm

from streamward.data.jsonl import source_name
from streamward.data.rows import write_rows
from streamward.errors import ConfigError
from streamward.train.synthesize.answers import dialogue, reasoning, turns
from streamward.train.synthesize.chat import ChatModel
from streamward.train.synthesize.computing import computing
from streamward.train.synthesize.config import Family, SynthesizeConfig
from streamward.train.synthesize.everyday import document, everyday
from streamward.train.synthesize.exchanges import exchange
from streamward.train.synthesize.lexicon import Lexicon, read_lexicons
from streamward.train.synthesize.lookalikes import lookalike
from streamward.train.synthesize.passages import passage
from streamward.train.synthesize.report import write_report
from streamward.train.synthesize.requests import context, request
from streamward.train.synthesize.rows import MadeRow
from streamward.train.synthesize.wrappers import disguise, excerpt, jailbreak, roleplay, unfinished
from streamward.train.synthesize.writer import Writer
from streamward.train.toml_file import read_config

logger = logging.getLogger(__name__)

FAMILIES: Mapping[Family, Callable[[Lexicon, Random], MadeRow | None]] = {
    "request": request,
    "context": context,
    "dialogue": dialogue,
    "exchange": exchange,
    "lookalike": lookalike,
    "everyday": everyday,
    "document": document,
    "jailbreak": jailbreak,
    "roleplay": roleplay,
    "disguise": disguise,
    "excerpt": excerpt,
    "unfinished": unfinished,
    "reasoning": reasoning,
    "turns": turns,
    "passage": passage,
    "computing": computing,
}
_TRIES_PER_ROW = 20


def run(config_path: Path) -> Path:
    """Make the rows of a run; the same config gives the same rows.

    Returns:
        The file written.

    Raises:
        ConfigError: The settings or a language's files are wrong.
    """
    config = read_config(SynthesizeConfig, config_path)
    lexicons = _chosen(read_lexicons(config.lexicon), config)
    rows = list(draw_rows(lexicons, config))
    stem = source_name(config.output)
    outcomes: Mapping[str, int] = {}
    if config.writer is not None:
        model = ChatModel(config.writer.endpoint, temperature=config.writer.temperature)
        writer = Writer(model, config=config.writer, cache=config.output.with_name(f"{stem}.writer.jsonl"))
        rows += writer.rows(lexicons, seed=config.seed)
        outcomes = writer.outcomes
        model.close()
    write_rows(config.output, (row.as_json(row_id(row)) for row in rows))
    report = config.output.with_name(f"{stem}.report.json")
    logger.info(write_report(report, rows, writer=outcomes))
    return config.output


def _chosen(lexicons: Sequence[Lexicon], config: SynthesizeConfig) -> tuple[Lexicon, ...]:
    known = {lexicon.language for lexicon in lexicons}
    unknown = sorted(({*config.languages, *config.rows} - {"other"}) - known)
    if unknown:
        raise ConfigError(f"{config.lexicon} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return tuple(lexicon for lexicon in lexicons if not config.languages or lexicon.language in config.languages)


def draw_rows(lexicons: tuple[Lexicon, ...], config: SynthesizeConfig) -> Iterator[MadeRow]:
    """Draw the wanted rows of each language and family, without repeats."""
    wanted = [
        (lexicon, family, number)
        for lexicon in lexicons
        for family, number in config.rows.get(lexicon.language, config.rows.get("other", {})).items()
    ]
    seen: Counter[str] = Counter()
    with tqdm(total=sum(number for _, _, number in wanted), desc="synthesis", unit="row", mininterval=2) as bar:
        for lexicon, family, number in wanted:
            chance = Random(f"{config.seed}/{lexicon.language}/{family}")
            for row in _draw_family(lexicon, family, chance=chance, number=number, seen=seen, config=config):
                bar.update()
                yield row


def _draw_family(
    lexicon: Lexicon, family: Family, *, chance: Random, number: int, seen: Counter[str], config: SynthesizeConfig
) -> Iterator[MadeRow]:
    made = 0
    for _ in range(number * _TRIES_PER_ROW):
        if made == number:
            return
        row = FAMILIES[family](lexicon, chance)
        if row is None:
            continue
        prompt, whole = (" ".join(text.lower().split()) for text in (row.prompt, f"{row.prompt}\0{row.response}"))
        if (row.response is None and seen[prompt]) or seen[prompt] >= config.max_repeats or seen[whole]:
            continue
        seen[prompt] += 1
        seen[whole] += prompt != whole
        made += 1
        yield row


def row_id(row: MadeRow) -> str:
    """Return an id that depends on what the row says."""
    text = "\0".join((row.language, row.prompt, row.response or "", *(turn for _, turn in row.history)))
    return f"syn2-{row.language}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:12]}"
