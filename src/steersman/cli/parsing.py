"""From words to arguments: argparse over the table of `steersman.cli.manual`.

Only the chosen command's arguments are built. Flags of every command (`--url`, `--token`, `--state`, `--output`) may
stand before or after it.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

from steersman.cli.manual import COMMANDS, COMMON, USAGE, Command, overview

_FLAGS = tuple(argument.flags[0] for argument in COMMON)
_ALONE = ("-h", "--help", "--version")
"""Flags without a value that may stand before the command."""


class _Parser(argparse.ArgumentParser):
    """Wrong words end with 1: the 2 argparse would use means *blocked* here."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage()
        self.exit(1, f"steersman: {message}\n")


class _Root(_Parser):
    """Its help page is the overview, made without argparse because that must be quick."""

    def format_help(self) -> str:
        return overview() + "\n"


def parser_of(command: Command, *, width: int) -> argparse.ArgumentParser:
    """The parser of one command, whose help page has lines of `width`: for the manual."""
    style = {**_style(command), "formatter_class": functools.partial(argparse.RawDescriptionHelpFormatter, width=width)}
    parser = _Parser(prog=f"steersman {command.name}", **style)
    _fill(parser, command)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace | int:
    """The arguments of one command, or the exit code when there is nothing left to do."""
    parser = _Root(prog="steersman", usage=USAGE, allow_abbrev=False)
    parser.add_argument("--version", action="store_true", dest="show_version", help=argparse.SUPPRESS)
    _add_common(parser)
    word = _command_word(argv)
    chosen = word if word in COMMANDS else None
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", prog="steersman", parser_class=_Parser)
    for command in COMMANDS.values():
        if chosen in (None, command.name):
            sub = commands.add_parser(command.name, help=command.summary, **_style(command))
            if command.name == chosen:
                _fill(sub, command)
    try:
        if word is not None and chosen is None:
            from steersman.domain.decoding import suggest

            kind, known = ("flag", _FLAGS) if word.startswith("-") else ("command", tuple(COMMANDS))
            parser.error(f"there is no {kind} {word!r}{suggest(word, known)}; steersman --help lists them")
        arguments, rest = parser.parse_known_args(argv)
        if rest and not (chosen and COMMANDS[chosen].passes_on):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
    except SystemExit as ended:
        return COMMANDS[chosen].misused if ended.code and chosen else int(ended.code or 0)
    if arguments.show_version:
        from importlib.metadata import version

        print(version("steersman"))
        return 0
    if arguments.command is None:
        print(overview())
        return 0
    for argument in COMMON:
        name = argument.flags[0].lstrip("-")
        if not hasattr(arguments, name):
            setattr(arguments, name, None)
    arguments.rest = rest
    arguments.run = COMMANDS[arguments.command].run
    return arguments


def _command_word(argv: Sequence[str]) -> str | None:
    """Where the command stands among the words: the first that is neither a common flag nor its value."""
    words = iter(argv)
    for word in words:
        if word in _FLAGS:
            next(words, None)
        elif word not in _ALONE and not word.startswith(tuple(f"{flag}=" for flag in _FLAGS)):
            return word
    return None


def _style(command: Command) -> dict[str, Any]:
    examples = "".join(f"\n  {example}" for example in command.examples)
    return {
        "description": command.description or command.summary,
        "epilog": f"examples:{examples}" if examples else None,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }


def _fill(parser: argparse.ArgumentParser, command: Command) -> None:
    for argument in command.arguments:
        parser.add_argument(*argument.flags, help=argument.help, **argument.options)
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    for argument in COMMON:
        parser.add_argument(*argument.flags, help=argument.help, default=argparse.SUPPRESS, **argument.options)
