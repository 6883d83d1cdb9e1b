"""Every example of every `--help` is one that the command line takes."""

import argparse
import re
import shlex
from collections.abc import Iterator

import pytest

from streamward.cli.main import build_parser


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in dict.fromkeys(action.choices.values()):
                yield from parsers(inner)


def examples() -> Iterator[str]:
    """Yield each command line that a help text shows."""
    for parser in parsers(build_parser()):
        text = re.sub(r"\\\n\s*", "", f"{parser.description or ''}\n{parser.epilog or ''}")
        for line in text.splitlines():
            for part in re.split(r"(?<!\|)\|(?!\|)", line):
                if found := re.match(r"\s*(?:examples?: )?(streamward .*?)(?:  +\S.*)?$", part):
                    yield found[1]


EXAMPLES = sorted(set(examples()))


def test_there_are_examples_of_most_commands():
    shown = {example.split()[1] for example in EXAMPLES}
    assert {"moderate", "watch", "models", "serve", "keys", "audit", "train", "evaluate"} <= shown


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_one_that_the_parser_takes(example):
    line = re.sub(r"\s*(\([^)]*\)|>\s*\S+)\s*$", "", example)  # what goes to the shell, or is said of it
    found = build_parser().parse_args(shlex.split(line)[1:])
    assert callable(found.run)


def test_an_example_with_redirected_answers_asks_for_those_a_program_reads():
    (example,) = [each for each in EXAMPLES if each.endswith("> verdicts.jsonl")]
    assert "--json " in example
