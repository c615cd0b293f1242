"""The command line's words, made into the options of the other rooms.

A command's parameters are the fields of a frozen dataclass, so that thirty options travel as one value.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, TypeVar, get_type_hints

import typer

from framefetch.errors import PlanError
from framefetch.options import Limits, Options, RetryPolicy, TableOptions, Timeouts, VerifyLevel

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "CacheDir",
    "MirrorArguments",
    "PruneArguments",
    "RebuildArguments",
    "command_of",
    "parse_amount",
    "parse_host_map",
]

T = TypeVar("T")

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SOURCE = "Where the files are"
_CHECKS = "What is expected"
_LIMITS = "Limits"
_OUTPUT = "Output"


def command_of(arguments: type[T], run: Callable[[T], None]) -> Callable[..., None]:
    """Return a function with a parameter for each field of a dataclass, which calls `run` with one value."""
    hints = get_type_hints(arguments, include_extras=True)

    def command(**values: object) -> None:
        run(arguments(**values))

    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
        )
        for field in fields(arguments)  # type: ignore[arg-type]
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = hints
    command.__doc__ = run.__doc__
    return command


def parse_amount(text: str, option: str) -> float:
    """Return a number of bytes: ``50M`` is 50 * 1024 * 1024.

    Raises
    ------
    PlanError
        Where the text is no such number.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise PlanError(f"{option} {text}: expected bytes such as 500K, 50M or 1.5G")
    return float(match.group(1)) * _UNITS[match.group(2).upper()]


def parse_host_map(pairs: list[str]) -> dict[str, str]:
    """Return a host map from ``OLD=NEW`` words.

    Raises
    ------
    PlanError
        Where a word is no such pair.
    """
    parsed = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not equals or not old.strip() or not new.strip() or "/" in pair:
            raise PlanError(f"--host-map {pair}: expected OLD=NEW such as testwarehouse:9000=localhost:8080")
        parsed[old.strip()] = new.strip()
    return parsed


def _parse_headers(lines: list[str]) -> dict[str, str]:
    parsed = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise PlanError("--header: expected 'Name: value' with a colon")
        parsed[name.strip()] = value.strip()
    return parsed


CacheDir = Annotated[str, typer.Argument(help="A folder that 'framefetch mirror' made.")]
#: What is said of a table, by every command that reads one.
Where = Annotated[
    str | None, typer.Option(help="Only rows for which this pandas query holds.", rich_help_panel=_SOURCE)
]
UrlColumn = Annotated[
    str | None,
    typer.Option(help="Column of URLs. [default: wkf, url, file_url, download_url]", rich_help_panel=_SOURCE),
]
UrlTemplate = Annotated[
    str | None, typer.Option(help="URL made of a row: 'http://host/{file_id}'.", rich_help_panel=_SOURCE)
]
BaseUrl = Annotated[str | None, typer.Option(help="Completes URLs without a host.", rich_help_panel=_SOURCE)]
PathTemplate = Annotated[
    str | None,
    typer.Option(help="Path below the version made of a row; {column!q} quotes '/'.", rich_help_panel=_SOURCE),
]
Suffix = Annotated[str, typer.Option(help="Appended to names without an extension.", rich_help_panel=_SOURCE)]
Version = Annotated[str, typer.Option(help="Label of the release: a folder below the cache.", rich_help_panel=_SOURCE)]
HostMap = Annotated[
    list[str] | None, typer.Option(help="Connect elsewhere: OLD=NEW. Repeatable.", rich_help_panel=_SOURCE)
]
Md5Column = Annotated[str | None, typer.Option(help="[default: md5, md5sum, md5_checksum]", rich_help_panel=_CHECKS)]
Sha256Column = Annotated[str | None, typer.Option(help="[default: sha256]", rich_help_panel=_CHECKS)]
SizeColumn = Annotated[str | None, typer.Option(help="[default: size, file_size]", rich_help_panel=_CHECKS)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.", rich_help_panel=_OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=_OUTPUT)]


@dataclass(frozen=True, slots=True)
class MirrorArguments:
    """Everything that ``framefetch mirror`` can be told."""

    table: Annotated[str, typer.Argument(help="CSV, TSV, JSON lines or Parquet, also .gz.")]
    cache_dir: Annotated[str, typer.Argument(help="Where the files are held.")]
    where: Where = None
    limit: Annotated[int | None, typer.Option(min=0, help="Only the first N of them.", rich_help_panel=_SOURCE)] = None
    url_column: UrlColumn = None
    url_template: UrlTemplate = None
    base_url: BaseUrl = None
    path_template: PathTemplate = None
    suffix: Suffix = ".nwb"
    version: Version = "v0"
    host_map: HostMap = None
    header: Annotated[
        list[str] | None,
        typer.Option(help="Sent to the table's own hosts: 'K: V'. Repeatable.", rich_help_panel=_SOURCE),
    ] = None
    md5_column: Md5Column = None
    sha256_column: Sha256Column = None
    size_column: SizeColumn = None
    verify: Annotated[
        str, typer.Option(help="How held files are checked: stat, hash or none.", rich_help_panel=_CHECKS)
    ] = "stat"
    max_connections: Annotated[
        int, typer.Option(min=1, help="Most requests at once in all.", rich_help_panel=_LIMITS)
    ] = Limits().connections
    per_host: Annotated[
        int,
        typer.Option(
            min=1, help="Most requests at once to one host; how many pay is found out.", rich_help_panel=_LIMITS
        ),
    ] = Limits().per_host
    bandwidth: Annotated[
        str | None, typer.Option(help="Bytes a second in all, such as 50M.", rich_help_panel=_LIMITS)
    ] = None
    attempts: Annotated[int, typer.Option(min=1, help="Tries in a row without progress.", rich_help_panel=_LIMITS)] = (
        RetryPolicy().attempts
    )
    stall_timeout: Annotated[float, typer.Option(help="Seconds of silence.", rich_help_panel=_LIMITS)] = (
        Timeouts().stall
    )
    min_speed: Annotated[str, typer.Option(help="Bytes a second over 30 s; 0 for none.", rich_help_panel=_LIMITS)] = (
        "1K"
    )
    lock_timeout: Annotated[
        float, typer.Option(help="Seconds to wait for another process.", rich_help_panel=_LIMITS)
    ] = 10.0
    share_content: Annotated[
        bool,
        typer.Option(
            "--share-content", help="Let files of the same content share their bytes.", rich_help_panel=_LIMITS
        ),
    ] = False
    dry_run: DryRun = False
    report: Annotated[
        list[str] | None,
        typer.Option(help="Write the result as .csv, .parquet or .json. Repeatable.", rich_help_panel=_OUTPUT),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no summary.", rich_help_panel=_OUTPUT)] = False
    json: Json = False

    def table_options(self) -> TableOptions:
        """Return what was said of the table."""
        return _table_options(self)

    def options(self) -> Options:
        """Return everything else that was said.

        Raises
        ------
        PlanError
            Where an option cannot be used.
        """
        bandwidth = None if self.bandwidth is None else parse_amount(self.bandwidth, "--bandwidth")
        return Options(
            limits=Limits(self.max_connections, self.per_host, bandwidth),
            retry=RetryPolicy(self.attempts),
            timeouts=Timeouts(
                connect=min(Timeouts().connect, self.stall_timeout),
                stall=self.stall_timeout,
                minimum_speed=parse_amount(self.min_speed, "--min-speed"),
            ),
            verify=_verify_level(self.verify),
            headers=_parse_headers(list(self.header or ())),
            share_content=self.share_content,
            lock_timeout=self.lock_timeout,
        )


@dataclass(frozen=True, slots=True)
class PruneArguments:
    """Everything that ``framefetch prune`` can be told."""

    cache_dir: CacheDir
    keep: Annotated[str, typer.Option(help="The table whose files stay.", metavar="TABLE", rich_help_panel=_SOURCE)]
    where: Where = None
    url_column: UrlColumn = None
    url_template: UrlTemplate = None
    base_url: BaseUrl = None
    path_template: PathTemplate = None
    suffix: Suffix = ".nwb"
    version: Version = "v0"
    md5_column: Md5Column = None
    sha256_column: Sha256Column = None
    size_column: SizeColumn = None
    dry_run: DryRun = False
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.", rich_help_panel=_OUTPUT)] = False
    json: Json = False

    def table_options(self) -> TableOptions:
        """Return what was said of the table."""
        return _table_options(self)


@dataclass(frozen=True, slots=True)
class RebuildArguments:
    """Everything that ``framefetch rebuild`` can be told."""

    cache_dir: CacheDir
    table: Annotated[
        str | None, typer.Option(help="A table that names files, and best states digests.", rich_help_panel=_SOURCE)
    ] = None
    where: Where = None
    url_column: UrlColumn = None
    url_template: UrlTemplate = None
    base_url: BaseUrl = None
    path_template: PathTemplate = None
    suffix: Suffix = ".nwb"
    version: Version = "v0"
    host_map: HostMap = None
    md5_column: Md5Column = None
    sha256_column: Sha256Column = None
    size_column: SizeColumn = None
    json: Json = False

    def table_options(self) -> TableOptions:
        """Return what was said of the table."""
        return _table_options(self)


def _table_options(said: MirrorArguments | PruneArguments | RebuildArguments) -> TableOptions:
    return TableOptions(
        url_column=said.url_column,
        url_template=said.url_template,
        base_url=said.base_url,
        path_template=said.path_template,
        suffix=said.suffix,
        md5_column=said.md5_column,
        sha256_column=said.sha256_column,
        size_column=said.size_column,
    )


def _verify_level(text: str) -> VerifyLevel:
    match text:
        case "stat" | "hash" | "none":
            return text
        case _:
            raise PlanError(f"--verify {text}: expected stat, hash or none")
