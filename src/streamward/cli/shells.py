"""Completion scripts of bash, zsh and fish for a tree of commands."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class OptionWords(NamedTuple):
    """One option of a command."""

    flags: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]
    """Values that are offered."""
    takes_file: bool
    """True if its value may be a file."""


class CommandWords(NamedTuple):
    """Words that can follow one command."""

    path: str
    """The command and its verb, as `/models/list`; empty for the whole command line."""
    subcommands: Mapping[str, str]
    """Names and what they do."""
    options: tuple[OptionWords, ...]
    values: tuple[str, ...]
    """Arguments that are offered."""


def bash(commands: list[CommandWords]) -> str:
    """Return a script for bash."""
    paths = "|".join(f'"{each.path}"' for each in commands if each.path)
    lines = [
        "# bash completion of streamward",
        "_streamward() {",
        '  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" at="" index',
        "  for ((index = 1; index < COMP_CWORD; index++)); do",
        f'    case "$at/${{COMP_WORDS[index]}}" in {paths}) at="$at/${{COMP_WORDS[index]}}" ;; esac',
        "  done",
        '  case "$at $before" in',
    ]
    for command, option in _with_values(commands):
        words = f'COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$current")); ' if option.choices else ""
        lines.append(f"    {_places(command, option)}) {words}return ;;")
    lines += ["  esac", '  case "$at" in']
    for command in commands:
        flags = " ".join(flag for option in command.options for flag in option.flags)
        words = " ".join([*command.subcommands, *command.values])
        lines.append(f'    "{command.path}") local options="{flags}" words="{words}" ;;')
    return "\n".join(
        [
            *lines,
            "  esac",
            '  [[ "$current" == -* ]] && words="$options"',
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -F _streamward streamward",  # offers files where nothing else is offered
            "",
        ]
    )


def zsh(commands: list[CommandWords]) -> str:
    """Return a script for zsh, for a folder of `fpath` or for `source`."""
    paths = "|".join(f'"{each.path}"' for each in commands if each.path)
    lines = [
        "#compdef streamward",
        "_streamward() {",
        '  local at="" index',
        "  local -a options values",
        "  for ((index = 2; index < CURRENT; index++)); do",
        f'    case "$at/${{words[index]}}" in ({paths}) at="$at/${{words[index]}}" ;; esac',
        "  done",
        '  case "$at ${words[CURRENT-1]}" in',
    ]
    for command, option in _with_values(commands):
        offered = [f"compadd -- {' '.join(option.choices)}"] if option.choices else []
        if option.takes_file or not offered:
            offered.append("_files")
        lines.append(f"    ({_places(command, option)}) {'; '.join(offered)}; return ;;")
    lines += ["  esac", '  case "$at" in']
    for command in commands:
        options = " ".join(_quoted(f"{flag}:{option.help}") for option in command.options for flag in option.flags)
        named = [*(f"{name}:{what}" for name, what in command.subcommands.items()), *command.values]
        lines.append(f'    ("{command.path}") options=({options}); values=({" ".join(map(_quoted, named))}) ;;')
    return "\n".join(
        [
            *lines,
            "  esac",
            '  if [[ "${words[CURRENT]}" == -* ]]; then _describe option options',
            "  elif (( ${#values} )); then _describe command values",
            "  else _files; fi",
            "}",
            'if [[ "${funcstack[1]}" == _streamward ]]; then _streamward "$@"; else compdef _streamward streamward; fi',
            "",
        ]
    )


def fish(commands: list[CommandWords]) -> str:
    """Return a script for fish."""
    paths = " ".join(f'"{each.path}"' for each in commands if each.path)
    lines = [
        "# fish completion of streamward",
        "function __streamward_at",
        '    set -l at ""',
        "    for word in (commandline -opc)[2..]",
        f'        contains -- "$at/$word" {paths}; and set at "$at/$word"',
        "    end",
        '    test "$at" = "$argv[1]"',
        "end",
        "complete -c streamward -e",
    ]
    for command in commands:
        begin = f"complete -c streamward -n '__streamward_at \"{command.path}\"'"
        if command.subcommands or command.values:
            lines.append(f"{begin} -f")
        lines += [f"{begin} -a {name} -d {_quoted(what)}" for name, what in command.subcommands.items()]
        lines += [f"{begin} -a {value}" for value in command.values]
        for option in command.options:
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
            value = ""
            if option.takes_value:
                value = " -r -F" if option.takes_file or not option.choices else " -x"
            if option.choices:
                value += f" -a '{' '.join(option.choices)}'"
            lines.append(f"{begin} {flags}{value} -d {_quoted(option.help)}")
    return "\n".join([*lines, ""])


def _with_values(commands: list[CommandWords]) -> Iterator[tuple[CommandWords, OptionWords]]:
    for command in commands:
        yield from ((command, option) for option in command.options if option.takes_value)


def _places(command: CommandWords, option: OptionWords) -> str:
    return "|".join(f'"{command.path} {flag}"' for flag in option.flags)


def _quoted(text: str) -> str:
    """Return a text in single quotes, as both zsh and fish read it."""
    return "'" + " ".join(text.replace("'", "'\\''").split()) + "'"
