"""The parser of arguments: argparse, whose complaints offer the nearest name that is known."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from streamward.suggestions import suggest

_CHOICE = re.compile(r"argument (.+?): invalid choice: '(.*)' \(choose from (.+)\)", re.DOTALL)
_KIND = re.compile(r"argument (.+?): invalid _?(\w+) value: .*", re.DOTALL)
_KINDS = {"int": "a whole number", "positive": "a whole number", "float": "a number"}


class Parser(argparse.ArgumentParser):
    """A parser, and through `add_subparsers` those of all commands. The lines of an epilog stay as they are."""

    def __init__(self, **settings: Any) -> None:  # Any: argparse's own
        """Take what argparse takes."""
        if settings.get("epilog"):
            settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**settings)

    def parse_known_args(  # type: ignore[override]  # one signature for argparse's two
        self,
        args: Sequence[str] | None = None,
        namespace: Any = None,  # Any: argparse's own type
    ) -> tuple[Any, list[str]]:
        """Parse, and refuse here what this command does not know: argparse would refuse it in the name of the first."""
        found, others = super().parse_known_args(args, namespace)
        if others:
            self.error(self._unknown(others))
        return found, others

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments, and how the command is used; ends with 2."""
        super().error(_told(message))

    def _unknown(self, others: Sequence[str]) -> str:
        options = [other.partition("=")[0] for other in others if other.startswith("-")]
        if not options:
            return f"{len(others)} arguments too many; put a text of several words in quotes"
        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        return f"unrecognized arguments: {', '.join(options)}{suggest(options[0], known)}"


def _told(message: str) -> str:
    if found := _CHOICE.fullmatch(message):
        place, given, choices = found.groups()
        known = [choice.strip().strip("'") for choice in choices.split(",")]
        return f"{place} must be one of {', '.join(known)}{suggest(given, known)}"
    if found := _KIND.fullmatch(message):
        return f"{found[1]} must be {_KINDS.get(found[2], 'of another kind')}"
    return message.removeprefix("argument ")
