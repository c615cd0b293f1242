"""What each command can be told, made into the options of the other rooms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

from framefetch.errors import PlanError
from framefetch.options import Limits, Options, RetryPolicy, TableOptions, Timeouts, TransferOptions, VerifyLevel
from framefetch.ui.parser import Argument, Option
from framefetch.urls import checked_host_map, redact_text

__all__ = [
    "DemoArguments",
    "ExportArguments",
    "ImportArguments",
    "MirrorArguments",
    "PruneArguments",
    "RebuildArguments",
    "StatusArguments",
    "VerifyArguments",
    "parse_amount",
    "parse_host_map",
]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SOURCE: Final = "Where the files are"
_CHECKS: Final = "What is expected"
_LIMITS: Final = "Limits"


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
        if not equals:
            raise PlanError(
                f"--host-map {redact_text(pair)}: expected OLD=NEW such as testwarehouse:9000=localhost:8080"
            )
        parsed[old.strip()] = new.strip()
    try:
        return checked_host_map(parsed)
    except ValueError as error:
        raise PlanError(f"--host-map: {error}") from None


def _parse_headers(lines: list[str]) -> dict[str, str]:
    parsed = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise PlanError("--header: expected 'Name: value' with a colon")
        parsed[name.strip()] = value.strip()
    return parsed


CacheDir = Annotated[str, Argument("A folder that 'framefetch mirror' made.")]
#: What is said of a table, by every command that reads one.
Where = Annotated[str | None, Option("Only rows for which this pandas query holds.", "QUERY", _SOURCE)]
UrlColumn = Annotated[
    str | None, Option("Column of URLs. [default: wkf, url, file_url, download_url]", "COLUMN", _SOURCE)
]
UrlTemplate = Annotated[str | None, Option("URL made of a row: 'http://host/{file_id}'.", "TEMPLATE", _SOURCE)]
BaseUrl = Annotated[str | None, Option("Completes URLs without a host.", "URL", _SOURCE)]
PathTemplate = Annotated[
    str | None, Option("Path below the version made of a row; {column!q} quotes '/'.", "TEMPLATE", _SOURCE)
]
Suffix = Annotated[str, Option("Appended to names without an extension.", "SUFFIX", _SOURCE)]
Version = Annotated[str, Option("Label of the release: a folder below the cache.", "LABEL", _SOURCE)]
HostMap = Annotated[list[str] | None, Option("Connect elsewhere: OLD=NEW. Repeatable.", "OLD=NEW", _SOURCE)]
KeyColumn = Annotated[
    str | None, Option("Column that names each file in the manifest. [default: its URL]", "COLUMN", _SOURCE)
]
Md5Column = Annotated[str | None, Option("[default: md5, md5sum, md5_checksum]", "COLUMN", _CHECKS)]
Sha256Column = Annotated[str | None, Option("[default: sha256]", "COLUMN", _CHECKS)]
DigestColumn = Annotated[str | None, Option("Column of digests as algorithm:hex.", "COLUMN", _CHECKS)]
SizeColumn = Annotated[str | None, Option("[default: size, file_size]", "COLUMN", _CHECKS)]
DryRun = Annotated[bool, Option("Only say what would happen.")]
Json = Annotated[bool, Option("One JSON object on stdout.")]


@dataclass(frozen=True, slots=True)
class MirrorArguments:
    """Everything that ``framefetch mirror`` can be told."""

    table: Annotated[str, Argument("CSV, TSV or JSON lines, also .gz, or Parquet.")]
    cache_dir: Annotated[str, Argument("Where the files are held.")]
    where: Where = None
    limit: Annotated[int | None, Option("Only the first N of them.", "N", _SOURCE, least=0)] = None
    url_column: UrlColumn = None
    url_template: UrlTemplate = None
    base_url: BaseUrl = None
    path_template: PathTemplate = None
    suffix: Suffix = ".nwb"
    key_column: KeyColumn = None
    version: Version = "v0"
    host_map: HostMap = None
    header: Annotated[
        list[str] | None, Option("Sent to the table's own hosts: 'K: V'. Repeatable.", "'K: V'", _SOURCE)
    ] = None
    md5_column: Md5Column = None
    sha256_column: Sha256Column = None
    digest_column: DigestColumn = None
    size_column: SizeColumn = None
    verify: Annotated[str, Option("How held files are checked: stat, hash or none.", "LEVEL", _CHECKS)] = "stat"
    no_content_check: Annotated[
        bool, Option("Take bodies that do not begin as their names promise, such as HTML as .nwb.", group=_CHECKS)
    ] = False
    max_connections: Annotated[int, Option("Most requests at once in all.", "N", _LIMITS, least=1)] = (
        Limits().connections
    )
    per_host: Annotated[
        int, Option("Most requests at once to one host; how many pay is found out.", "N", _LIMITS, least=1)
    ] = Limits().per_host
    bandwidth: Annotated[str | None, Option("Bytes a second in all, such as 50M.", "BYTES", _LIMITS)] = None
    attempts: Annotated[int, Option("Tries in a row without progress.", "N", _LIMITS, least=1)] = RetryPolicy().attempts
    stall_timeout: Annotated[float, Option("Seconds of silence.", "SECONDS", _LIMITS)] = Timeouts().stall
    min_speed: Annotated[str, Option("Bytes a second over 30 s; 0 for none.", "BYTES", _LIMITS)] = "1K"
    lock_timeout: Annotated[float, Option("Seconds to wait for another process.", "SECONDS", _LIMITS)] = 10.0
    share_content: Annotated[bool, Option("Let files of the same content share their bytes.", group=_LIMITS)] = False
    dry_run: DryRun = False
    report: Annotated[
        list[str] | None, Option("Write the result: .csv, .parquet, .json or .html. Repeatable.", "FILE")
    ] = None
    quiet: Annotated[bool, Option("No progress and no summary.")] = False
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
            transfer=TransferOptions(check_content=not self.no_content_check),
            verify=_verify_level(self.verify),
            headers=_parse_headers(list(self.header or ())),
            share_content=self.share_content,
            lock_timeout=self.lock_timeout,
        )


@dataclass(frozen=True, slots=True)
class PruneArguments:
    """Everything that ``framefetch prune`` can be told."""

    cache_dir: CacheDir
    keep: Annotated[str, Option("The table whose files stay.", "TABLE", _SOURCE)]
    where: Where = None
    url_column: UrlColumn = None
    url_template: UrlTemplate = None
    base_url: BaseUrl = None
    path_template: PathTemplate = None
    suffix: Suffix = ".nwb"
    key_column: KeyColumn = None
    version: Version = "v0"
    md5_column: Md5Column = None
    sha256_column: Sha256Column = None
    digest_column: DigestColumn = None
    size_column: SizeColumn = None
    dry_run: DryRun = False
    yes: Annotated[bool, Option("Do not ask first.")] = False
    json: Json = False

    def table_options(self) -> TableOptions:
        """Return what was said of the table."""
        return _table_options(self)


@dataclass(frozen=True, slots=True)
class RebuildArguments:
    """Everything that ``framefetch rebuild`` can be told."""

    cache_dir: CacheDir
    table: Annotated[str | None, Option("A table that names files, and best states digests.", "TABLE", _SOURCE)] = None
    where: Where = None
    url_column: UrlColumn = None
    url_template: UrlTemplate = None
    base_url: BaseUrl = None
    path_template: PathTemplate = None
    suffix: Suffix = ".nwb"
    key_column: KeyColumn = None
    version: Version = "v0"
    host_map: HostMap = None
    md5_column: Md5Column = None
    sha256_column: Sha256Column = None
    digest_column: DigestColumn = None
    size_column: SizeColumn = None
    json: Json = False

    def table_options(self) -> TableOptions:
        """Return what was said of the table."""
        return _table_options(self)


@dataclass(frozen=True, slots=True)
class StatusArguments:
    """Everything that ``framefetch status`` can be told."""

    cache_dir: CacheDir
    json: Json = False


@dataclass(frozen=True, slots=True)
class VerifyArguments:
    """Everything that ``framefetch verify`` can be told."""

    cache_dir: CacheDir
    hash: Annotated[bool, Option("Read every byte.", group=_CHECKS)] = False
    json: Annotated[bool, Option("One JSON list on stdout: of each finding its kind, path and detail.")] = False


@dataclass(frozen=True, slots=True)
class ExportArguments:
    """Everything that ``framefetch export`` can be told."""

    cache_dir: CacheDir
    target: Annotated[str, Argument("The file to write; - is stdout.", "MANIFEST.JSON")]


@dataclass(frozen=True, slots=True)
class ImportArguments:
    """Everything that ``framefetch import`` can be told."""

    cache_dir: Annotated[str, Argument("The cache; made where it is missing.")]
    source: Annotated[str, Argument("A prototype's manifest.", "MANIFEST.JSON")]
    host_map: HostMap = None


@dataclass(frozen=True, slots=True)
class DemoArguments:
    """Everything that ``framefetch demo`` can be told."""

    folder: Annotated[str, Argument("Where to work.")] = "framefetch-demo"


def _table_options(said: MirrorArguments | PruneArguments | RebuildArguments) -> TableOptions:
    return TableOptions(
        url_column=said.url_column,
        url_template=said.url_template,
        base_url=said.base_url,
        path_template=said.path_template,
        suffix=said.suffix,
        key_column=said.key_column,
        md5_column=said.md5_column,
        sha256_column=said.sha256_column,
        digest_column=said.digest_column,
        size_column=said.size_column,
    )


def _verify_level(text: str) -> VerifyLevel:
    match text:
        case "stat" | "hash" | "none":
            return text
        case _:
            raise PlanError(f"--verify {text}: expected stat, hash or none")
