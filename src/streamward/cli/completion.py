"""`streamward completion`: what a shell needs to complete commands, options and their values.

Written here because shtab, the usual library for argparse, has no fish. The scripts are static: a Tab starts no Python.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from streamward.cli import shells

_EXAMPLES = """\
examples:
  streamward completion bash > ~/.local/share/bash-completion/completions/streamward
  streamward completion zsh > ~/.zfunc/_streamward
  streamward completion fish > ~/.config/fish/completions/streamward.fish
"""
_FILE_METAVARS = {"FILE", "FOLDER", "IN", "OUT", "PATH"}
_SCRIPTS: Mapping[str, Callable[[list[shells.CommandWords]], str]] = {
    "bash": shells.bash,
    "zsh": shells.zsh,
    "fish": shells.fish,
}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description="Prints a script for bash, zsh or fish that completes commands, options and their values.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("shell", choices=sorted(_SCRIPTS), help="the shell")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    from streamward.bundled.embedded import embedded_guards  # imported late, because --help does not need it

    values = {"policy": ("strict", "loose"), "guard": tuple(embedded_guards())}
    print(_SCRIPTS[arguments.shell](list(command_words(arguments.parser, values=values))), end="")
    return 0


class _Named(NamedTuple):
    path: str
    help: str
    parser: argparse.ArgumentParser


def command_words(
    parser: argparse.ArgumentParser, *, values: Mapping[str, tuple[str, ...]]
) -> Iterator[shells.CommandWords]:
    """Yield what can follow each command, the whole command line first.

    Args:
        parser: Parser of the whole command line.
        values: Values to offer for options by their destination, beside files.
    """
    waiting = [_Named("", "", parser)]
    while waiting:
        named = waiting.pop(0)
        inner = _subcommands(named)
        waiting += inner
        actions = [action for action in named.parser._actions if not isinstance(action, argparse._SubParsersAction)]
        yield shells.CommandWords(
            path=named.path,
            subcommands={each.path.rpartition("/")[2]: each.help for each in inner},
            options=tuple(_option(action, values) for action in actions if action.option_strings),
            values=tuple(
                str(choice) for action in actions if not action.option_strings for choice in action.choices or ()
            ),
        )


def _subcommands(named: _Named) -> list[_Named]:
    found = []
    for action in named.parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help or "" for each in action._choices_actions}
            found += [
                _Named(f"{named.path}/{name}", helps.get(name, ""), each) for name, each in action.choices.items()
            ]
    return found


def _option(action: argparse.Action, values: Mapping[str, tuple[str, ...]]) -> shells.OptionWords:
    metavar = action.metavar[0] if isinstance(action.metavar, tuple) else action.metavar
    choices = tuple(map(str, action.choices or ()))
    if action.dest in values:
        choices = values[action.dest]
    return shells.OptionWords(
        flags=tuple(action.option_strings),
        help=(action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%"),
        takes_value=action.nargs != 0,
        choices=choices,
        takes_file=metavar in _FILE_METAVARS or action.dest in values,
    )
