"""The `streamward` command: parses arguments, runs a command, turns errors into exit codes."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from streamward.cli import (
    assistant,
    audit,
    bench,
    bench_intervene,
    bench_serve,
    completion,
    doctor,
    evaluate,
    keys,
    mask,
    models,
    moderate,
    policy,
    serve,
    store,
    teach,
    train,
    watch,
)
from streamward.cli.common import ExitCode, say
from streamward.cli.parser import Parser
from streamward.errors import ConfigError, InputError, StreamwardError
from streamward.reasons import reason_of

_DESCRIPTION = """\
Judges what people ask a language model and what it answers, also while the answer is being written.

  streamward moderate "How do I bake bread?"             judge a prompt
  streamward moderate --prompt P --response R --json     judge an answer to a prompt, as JSON
  llm "Hello" | streamward watch --prompt "Hello"        pass on an answer while it is harmless
  streamward models list                                 what guards there are
"""
_EPILOG = "Exit codes: 0 allowed, 3 blocked, 2 bad input, 1 failure."
_COMMANDS = (
    moderate,
    watch,
    mask,
    models,
    policy,
    teach,
    serve,
    keys,
    store,
    audit,
    train,
    evaluate,
    bench,
    bench_serve,
    bench_intervene,
    assistant,
    doctor,
    completion,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    parser = build_parser()
    given = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_args(
        given, argparse.Namespace(given=given, parser=parser)
    )  # reports say how they were made
    try:
        return int(arguments.run(arguments))
    except (InputError, ConfigError) as error:
        say(str(error))
        return ExitCode.BAD_INPUT
    except StreamwardError as error:
        say(str(error))
        return ExitCode.FAILURE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILURE
    except OSError as error:
        say(f"{error.filename or 'input or output'}: {reason_of(error)}")
        return ExitCode.FAILURE
    except Exception as error:  # a bug of ours: its message could contain moderated text
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            say("this command needs torch; run: pip install 'streamward[torch]'")
            return ExitCode.BAD_INPUT
        if os.environ.get("STREAMWARD_DEBUG"):
            raise
        say(f"unexpected {type(error).__name__}; set STREAMWARD_DEBUG=1 to see where it comes from")
        return ExitCode.FAILURE


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="streamward",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"streamward {version('streamward')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser
