"""Commands as dataclasses: each field says what a word of the command line means, and `argparse` reads the words.

A command's parameters travel as one frozen value. The standard library's parser is there in a few milliseconds; the
libraries that are pleasanter to write for took a third of a short command's time.
"""

from __future__ import annotations

import argparse
import sys
import types
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, NoReturn, get_args, get_origin, get_type_hints

from framefetch import __version__
from framefetch.ui.console import EXIT_USAGE, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Argument", "Command", "Option", "parse"]

#: Columns that names and values of options may take in a help text.
HELP_COLUMN: Final = 30


@dataclass(frozen=True, slots=True)
class Argument:
    """A word that stands for itself.

    Parameters
    ----------
    help : str
        What it is.
    metavar : str, optional
        How it is called; the field's name in capitals where it is not given.
    """

    help: str
    metavar: str | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """A word with a name, or a flag where the field is a boolean.

    Parameters
    ----------
    help : str
        What it does.
    metavar : str, optional
        How its value is called.
    group : str
        Under which heading it is explained.
    least : int, optional
        The smallest number that may be given.
    """

    help: str
    metavar: str | None = None
    group: str = "Output"
    least: int | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A command.

    Parameters
    ----------
    name : str
        What it is called.
    arguments : type
        A dataclass; its fields are annotated with an `Argument` or an `Option`.
    run : callable
        Takes a value of that class and returns the exit code; what it does is its docstring.
    """

    name: str
    arguments: type
    run: Callable[[Any], int]


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as all commands do."""

    def error(self, message: str) -> NoReturn:
        say(f"{message}; see '{self.prog} --help'")
        raise SystemExit(EXIT_USAGE)


def parse(about: str, commands: Sequence[Command], words: Sequence[str]) -> tuple[Command, Any]:
    """Return the command that was asked for, and its arguments.

    Raises
    ------
    SystemExit
        Where help was asked for, or the words mean nothing.
    """
    parser = _Parser(prog="framefetch", description=about, allow_abbrev=False, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"framefetch {__version__}", help="Say which this is.")
    listed = parser.add_subparsers(metavar="COMMAND", title="Commands", dest="command", required=True)
    for command in commands:
        text = (command.run.__doc__ or "").strip()
        summary = text.partition("\n")[0]
        described = " ".join(text.split())
        one = listed.add_parser(
            command.name, help=summary, description=described, allow_abbrev=False, formatter_class=_Help
        )
        one.set_defaults(of=command, by=one)
        if command.name in words:
            _explain(one, command.arguments)
    if not words:
        parser.print_help(sys.stderr)
        raise SystemExit(EXIT_USAGE)
    known, unknown = parser.parse_known_args(words)
    said = vars(known)
    if unknown:
        said["by"].error(f"unrecognized arguments: {' '.join(unknown)}")
    chosen: Command = said["of"]
    return chosen, chosen.arguments(**{field.name: said[field.name] for field in fields(chosen.arguments)})


def _Help(prog: str) -> argparse.HelpFormatter:  # noqa: N802 - argparse calls it as a class
    return argparse.HelpFormatter(prog, max_help_position=HELP_COLUMN)


def _explain(parser: argparse.ArgumentParser, arguments: type) -> None:
    """Add a word for each field."""
    hints = get_type_hints(arguments, include_extras=True)
    groups: dict[str, Any] = {}
    usage = [parser.prog]
    for field in fields(arguments):
        kind, word = get_args(hints[field.name])[:2]
        if isinstance(word, Argument):
            kept = {} if field.default is MISSING else {"nargs": "?", "default": field.default}
            metavar = word.metavar or field.name.upper()
            parser.add_argument(field.name, metavar=metavar, help=_told(word.help, field.default), **kept)
            usage.append(f"[{metavar}]" if kept else metavar)
            continue
        group = groups.get(word.group) or groups.setdefault(word.group, parser.add_argument_group(word.group))
        name = "--" + field.name.replace("_", "-")
        group.add_argument(name, dest=field.name, help=_told(word.help, field.default), **_manner(kind, word, field))
        if field.default is MISSING:
            usage.append(f"{name} {word.metavar}")
    parser.usage = " ".join([*usage, "[OPTION]..."])


def _told(text: str, default: Any) -> str:
    shown = default not in (MISSING, None, False)
    return (f"{text} [default: {default}]" if shown else text).replace("%", "%%")


def _manner(kind: Any, word: Option, field: Any) -> dict[str, Any]:
    """Return how argparse is to take an option."""
    kinds = [one for one in get_args(kind) if one is not types.NoneType] or [kind]
    if kinds == [bool]:
        return {"action": "store_true"}
    manner = {"metavar": word.metavar, "required": field.default is MISSING}
    if field.default is not MISSING:
        manner["default"] = field.default
    if get_origin(kinds[0]) is list:
        return {**manner, "action": "append"}
    return {**manner, "type": kinds[0] if word.least is None else _at_least(word.least)}


def _at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more, got {number}")
        return number

    return integer
