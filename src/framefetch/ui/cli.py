"""The command ``framefetch``.

Each command loads what it needs when it runs: help and ``status`` stay fast because pandas and aiohttp are for those
who fetch. Errors that a user causes are one line on stderr and an exit code, never a traceback.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import warnings
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import typer

from framefetch.errors import FramefetchError, PlanError
from framefetch.ui.arguments import MirrorArguments, command_of, parse_host_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from framefetch.options import Options
    from framefetch.table.result import FetchResult

__all__ = ["app", "main"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_FATAL = 3
EXIT_INTERRUPTED = 130
#: Failed rows that the summary names; a report holds them all.
SHOWN_FAILURES = 5

app = typer.Typer(
    name="framefetch",
    help="A table of files goes in; verified files and a table come out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

CacheDir = Annotated[str, typer.Argument(help="A folder that 'framefetch mirror' made.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command line."""
    warnings.showwarning = _show_warning
    try:
        app()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone; nothing is left to say it to
        sys.exit(EXIT_FAILED)
    finally:
        gc.freeze()  # else the interpreter walks every object of every library once more before it ends: 60 ms


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _say(f"warning: {message}")


def _say(text: str) -> None:
    """Write a line for people to stderr; a stderr that is gone stops nothing."""
    try:
        print(f"framefetch: {text}", file=sys.stderr, flush=True)
    except OSError:
        return


@contextmanager
def _errors_as_lines() -> Iterator[None]:
    """Turn our errors into one line and an exit code."""
    try:
        yield
    except PlanError as error:
        _say(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except FramefetchError as error:
        _say(str(error))
        raise typer.Exit(EXIT_FATAL) from None


# -- mirror -----------------------------------------------------------------------------------------------------


def _mirror(arguments: MirrorArguments) -> None:
    """Hold the file of every row of a table: fetch what is missing, verify it, record it."""
    from framefetch.ui.report import check_report

    with _errors_as_lines():
        reports = [check_report(path) for path in arguments.report or ()]
        host_map = parse_host_map(list(arguments.host_map or ()))
        options = arguments.options()
        if not arguments.quiet:
            from framefetch.ui.progress import Progress

            options = replace(options, observers=(Progress(),))
        code = (
            _dry_run(arguments, options, host_map, reports)
            if arguments.dry_run
            else _fetch(arguments, options, host_map, reports)
        )
    raise typer.Exit(code)


def _read_rows(arguments: MirrorArguments) -> Any:
    """Return the rows to mirror: as text where nothing but their addresses and digests is needed, else a DataFrame."""
    if arguments.where is None:
        from framefetch.table.text import read_text_rows

        rows = read_text_rows(arguments.table, arguments.table_options(), arguments.limit)
        if rows is not None:
            return rows
    from framefetch.table.read import query_table, read_table

    table = read_table(arguments.table)
    table = table if arguments.where is None else query_table(table, arguments.where)
    return table if arguments.limit is None else table.head(arguments.limit)


def _dry_run(arguments: MirrorArguments, options: Options, host_map: dict[str, str], reports: list[str]) -> int:
    from framefetch.cache import MetadataCache
    from framefetch.table.read import query_table
    from framefetch.ui.progress import bytes_text
    from framefetch.ui.report import write_report

    with MetadataCache(
        arguments.table,
        arguments.cache_dir,
        table=arguments.table_options(),
        host_map=host_map,
        file_version=arguments.version,
        options=options,
    ) as cache:
        rows = cache.dataframe if arguments.where is None else query_table(cache.dataframe, arguments.where)
        plan = cache.plan(rows if arguments.limit is None else rows.head(arguments.limit))
    summary = plan.summary()
    for path in reports:
        write_report(plan.frame, path)
    if arguments.json:
        print(json.dumps(summary))
    elif not arguments.quiet:
        unknown = f" and {summary['unknown_sizes']:,} of unknown size" if summary["unknown_sizes"] else ""
        print(
            f"{summary['rows']:,} rows, {summary['files']:,} files: {summary['to_fetch']:,} rows to fetch "
            f"({bytes_text(summary['bytes'])}{unknown}), {summary['held']:,} held, {summary['invalid']:,} invalid; "
            f"{bytes_text(summary['free_space'])} free"
        )
        invalid = plan.frame["error"].dropna()
        _name_failures(list(invalid.head(SHOWN_FAILURES)), len(invalid))
    for note in plan.notes if not arguments.quiet else ():
        _say(note)
    return EXIT_FAILED if summary["invalid"] else 0


class _Signals:
    """The first signal ends the run in good order, the second at once."""

    CODES: ClassVar[dict[int, int]] = {
        getattr(signal, name): 128 + getattr(signal, name)
        for name in ("SIGINT", "SIGTERM", "SIGHUP")
        if hasattr(signal, name)
    }

    def __init__(self) -> None:
        self.code: int | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._take) for number in self.CODES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self.code is not None:
            os._exit(self.CODES[signal.Signals(number)])
        self.code = self.CODES[signal.Signals(number)]
        raise KeyboardInterrupt


def _fetch(arguments: MirrorArguments, options: Options, host_map: dict[str, str], reports: list[str]) -> int:
    """Fetch, and tell what was done however it ended."""
    from framefetch.table.plan import plan_rows
    from framefetch.works import SCHEMES, Job, Works, raise_limit

    rows = _read_rows(arguments)
    table = arguments.table_options()
    works = Works(arguments.cache_dir, options, host_map)
    raise_limit(options.limits)
    result: FetchResult | None = None
    with _Signals() as signals, closing(works):
        try:
            job = Job(
                works,
                None,
                lambda: plan_rows(rows, table, arguments.version, SCHEMES),
                fixed_paths=table.path_template is not None,
            )
            result = job.wait()
            job.close()  # what is told is on the disk
        except KeyboardInterrupt as interrupt:
            _tell(getattr(interrupt, "result", result), arguments, reports)
            return signals.code or EXIT_INTERRUPTED
        except PlanError:
            raise
        except FramefetchError as error:
            _tell(error.result, arguments, reports)
            raise
    assert result is not None
    return _tell(result, arguments, reports)


def _tell(result: Any, arguments: MirrorArguments, reports: list[str]) -> int:
    from framefetch.ui.progress import bytes_text
    from framefetch.ui.report import write_report

    if result is None:
        return EXIT_FATAL
    for path in reports:
        write_report(result.frame, path)
    summary = result.summary()
    if arguments.json:
        print(json.dumps(summary), flush=True)
    if not arguments.quiet:
        parts = [
            f"{summary[name]:,} {name}"
            for name in ("downloaded", "cached", "failed", "invalid", "cancelled")
            if summary[name]
        ]
        _say(
            f"{summary['rows']:,} rows: {', '.join(parts) or 'nothing to do'}; {bytes_text(summary['bytes'])} "
            f"in {summary['requests']:,} requests, {summary['seconds']:.1f} s"
        )
        _name_failures(result.messages(SHOWN_FAILURES), summary["failed"] + summary["invalid"])
    return EXIT_FAILED if summary["failed"] or summary["invalid"] or summary["cancelled"] else 0


def _name_failures(messages: Sequence[str], count: int) -> None:
    for message in messages:
        _say(f"  {message}")
    if count > len(messages):
        _say(f"  … and {count - len(messages):,} more; --report FILE.csv names them all")


app.command("mirror")(command_of(MirrorArguments, _mirror))


# -- the folder -------------------------------------------------------------------------------------------------


@app.command()
def status(cache_dir: CacheDir, as_json: AsJson = False) -> None:
    """Say how many files and bytes a cache holds."""
    from framefetch.store.audit import count_holdings
    from framefetch.store.folder import CacheFolder
    from framefetch.ui.progress import bytes_text

    with _errors_as_lines(), CacheFolder(cache_dir, create=False, mend=False) as folder:
        holdings = count_holdings(folder.manifest)
        free = folder.free_space()
    if as_json:
        print(json.dumps({**asdict(holdings), "free_space": free}))
        return
    print(f"{holdings.files:,} files, {bytes_text(holdings.bytes)}; {bytes_text(free)} free")
    for name, count in holdings.versions.items():
        print(f"  version {name}: {count:,} files")
    for name, count in holdings.verified.items():
        print(f"  verified by {name}: {count:,} files")


@app.command()
def verify(
    cache_dir: CacheDir,
    by_hash: Annotated[bool, typer.Option("--hash", help="Read every byte.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the manifest with the disk; exit code 1 where they differ."""
    from framefetch.store.audit import audit
    from framefetch.store.folder import CacheFolder

    with _errors_as_lines(), CacheFolder(cache_dir, create=False, mend=False) as folder:
        findings = list(audit(folder.files, folder.manifest, level="hash" if by_hash else "stat"))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.kind}\t{finding.path}\t{finding.detail}")
    raise typer.Exit(EXIT_FAILED if findings else 0)


@app.command("export")
def export_command(
    cache_dir: CacheDir,
    target: Annotated[str, typer.Argument(metavar="MANIFEST.JSON", help="The file to write.")],
) -> None:
    """Write the manifest as JSON in the notebook prototype's layout."""
    from framefetch.store.exchange import export_manifest
    from framefetch.store.folder import CacheFolder

    with _errors_as_lines(), CacheFolder(cache_dir, create=False, mend=False) as folder:
        count = export_manifest(folder.manifest, target)
    print(f"{count:,} entries written to {target}")


@app.command("import")
def import_command(
    cache_dir: Annotated[str, typer.Argument(help="The cache; made where it is missing.")],
    source: Annotated[str, typer.Argument(metavar="MANIFEST.JSON", help="A prototype's manifest.")],
    host_map: Annotated[list[str] | None, typer.Option(help="As given to mirror: OLD=NEW. Repeatable.")] = None,
) -> None:
    """Take over a notebook prototype's cache without downloading anything; each file is hashed first."""
    with _errors_as_lines():
        mapping = parse_host_map(host_map or [])
        from framefetch.options import Options
        from framefetch.works import Works

        works = Works(cache_dir, Options(), mapping)
        try:
            report = works.import_manifest(source)
        finally:
            works.close()
    print(f"{report.imported:,} entries imported, {len(report.skipped):,} skipped")
    for url, reason in report.skipped:
        _say(f"skipped {url}: {reason}")
    raise typer.Exit(EXIT_FAILED if report.skipped else 0)


@app.command()
def demo(folder: Annotated[str, typer.Argument(help="Where to work.")] = "framefetch-demo") -> None:
    """Show the whole job on this machine: a small warehouse, a table, a mirror, and a second run that costs nothing."""
    from framefetch.ui.demo import run_demo

    with _errors_as_lines():
        raise typer.Exit(run_demo(folder))
