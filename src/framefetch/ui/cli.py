"""The command ``framefetch``.

Each command loads what it needs when it runs: help and ``status`` stay fast because pandas and the network are for
those who fetch. Errors are one line on stderr and an exit code; a traceback is for whoever asks for it.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import sys
import warnings
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeGuard

from framefetch.errors import PlanError, StorageError
from framefetch.ui import upkeep
from framefetch.ui.arguments import (
    DemoArguments,
    ExportArguments,
    ImportArguments,
    MirrorArguments,
    PruneArguments,
    RebuildArguments,
    StatusArguments,
    VerifyArguments,
    parse_host_map,
)
from framefetch.ui.console import (
    EXIT_FAILED,
    EXIT_FATAL,
    EXIT_INTERRUPTED,
    counted,
    errors_as_lines,
    in_words,
    open_streams,
    say,
    say_unforeseen,
)
from framefetch.ui.parser import Command, parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from framefetch.options import Options
    from framefetch.table.planned import PlannedRows
    from framefetch.table.result import FetchResult

__all__ = ["main"]

#: Failed rows that the summary names; a report holds them all.
SHOWN_FAILURES = 5

#: What makes a terminal show its cursor.
SHOW_CURSOR = b"\x1b[?25h"

#: Objects after which the garbage collector looks for cycles.
COLLECT_AFTER = 20_000


def main() -> None:
    """Run the command line."""
    open_streams()
    warnings.showwarning = _show_warning
    # Imports and rows make many objects that live on and few that only a collector finds: at the default threshold it
    # walks them all, over and over, for a tenth of the time of a short command.
    gc.set_threshold(COLLECT_AFTER)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads for matrices, of which there are none here
    try:
        command, arguments = parse(ABOUT, COMMANDS, sys.argv[1:])
        code = command.run(arguments)
        sys.stdout.flush()  # here, where somebody listens to what comes of it
        sys.exit(code)
    except KeyboardInterrupt:  # before a command had begun that could put things in order
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - of any kind: what was done has been told, and this is told too
        if not _is_of_the_output(error):
            say_unforeseen(error)
            sys.exit(EXIT_FATAL)
        if error.errno == errno.ENOSPC:  # else the reader has gone: nothing is left to say it to
            say(f"writing the output: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left of it would be tried once more at the end
        sys.exit(EXIT_FAILED)
    finally:
        gc.freeze()  # else the interpreter walks every object of every library once more before it ends: 60 ms


def _is_of_the_output(error: Exception) -> TypeGuard[OSError]:
    """Return whether an error says that the output cannot be written."""
    return isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC) and error.filename is None


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"warning: {message}")


# -- mirror -----------------------------------------------------------------------------------------------------


def mirror(arguments: MirrorArguments) -> int:
    """Hold the file of every row of a table: fetch what is missing, verify it, record it."""
    with errors_as_lines():
        reports = _reports(arguments)
        host_map = parse_host_map(list(arguments.host_map or ()))
        options = arguments.options()
        if not arguments.quiet:
            from framefetch.ui.progress import Progress

            options = replace(options, observers=(Progress(),))
        if arguments.dry_run:
            return _dry_run(arguments, options, host_map, reports)
        return _fetch(arguments, options, host_map, reports)


def _reports(arguments: MirrorArguments) -> list[str]:
    """Return where reports are to be written, each looked at before anything is done."""
    if arguments.report is None:
        return []
    from framefetch.ui.report import check_report

    return [check_report(path, arguments.table, arguments.cache_dir, arguments.version) for path in arguments.report]


def _dry_run(arguments: MirrorArguments, options: Options, host_map: dict[str, str], reports: list[str]) -> int:
    from framefetch.cache import MetadataCache
    from framefetch.table.read import query_table
    from framefetch.ui.progress import bytes_text

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
    if arguments.json:
        print(json.dumps(summary))
    elif not arguments.quiet:
        failed = f"{summary['failed']:,} would fail, " if summary["failed"] else ""
        unknown = f" and {summary['unknown_sizes']:,} of unknown size" if summary["unknown_sizes"] else ""
        print(
            f"{counted(summary['rows'], 'row')}, {counted(summary['files'], 'file')}: "
            f"{counted(summary['to_fetch'], 'row')} to fetch "
            f"({bytes_text(summary['bytes'])}{unknown}), {summary['held']:,} held, {failed}"
            f"{summary['invalid']:,} invalid; {bytes_text(summary['free_space'])} free"
        )
        errors = plan.frame["error"].dropna()
        _name_failures(list(errors.head(SHOWN_FAILURES)), len(errors))
    for note in plan.notes if not arguments.quiet else ():
        say(note)
    if not _report(plan, reports):
        return EXIT_FATAL
    from framefetch.ui.space import require_room_for

    require_room_for(plan, str(cache.cache_dir), options.lock_timeout)  # said last, as the real run says it
    return EXIT_FAILED if summary["failed"] or summary["invalid"] else 0


class _Signals:
    """The first signal ends the run in good order, the second at once; what is ignored, as after nohup, stays so."""

    CODES: ClassVar[dict[int, int]] = {
        getattr(signal, name): 128 + getattr(signal, name)
        for name in ("SIGINT", "SIGTERM", "SIGHUP")
        if hasattr(signal, name)
    }

    def __init__(self) -> None:
        self.code: int | None = None

    def __enter__(self) -> Self:
        heard = [number for number in self.CODES if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._take) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self.code is not None:
            if os.isatty(2):  # whatever stands in for stderr meanwhile
                os.write(2, SHOW_CURSOR)  # a display has hidden it, and nothing else is done any more
            os._exit(self.CODES[signal.Signals(number)])
        self.code = self.CODES[signal.Signals(number)]
        raise KeyboardInterrupt


def _fetch(arguments: MirrorArguments, options: Options, host_map: dict[str, str], reports: list[str]) -> int:
    """Fetch, and tell what was done however it ended."""
    gc.disable()  # until there is a plan: what is made before that lives on
    from framefetch.job import Job
    from framefetch.table.plan import plan_rows
    from framefetch.table.text import read_rows
    from framefetch.works import SCHEMES, Works, raise_limit

    rows = read_rows(arguments.table, arguments.table_options(), arguments.where, arguments.limit)
    table = arguments.table_options()
    works = Works(arguments.cache_dir, options, host_map)
    raise_limit(options.limits)
    result: FetchResult | None = None

    def plan() -> PlannedRows:
        planned = plan_rows(rows, table, arguments.version, SCHEMES)
        gc.freeze()
        gc.enable()
        return planned

    with _Signals() as signals, closing(works):
        try:
            job = Job(works, None, plan, fixed_paths=table.path_template is not None)
            result = job.wait()
            job.close()  # what is told is on the disk
        except KeyboardInterrupt as interrupt:
            _tell(getattr(interrupt, "result", result), arguments, reports)
            return signals.code or EXIT_INTERRUPTED
        except PlanError:
            raise
        except Exception as error:
            _tell(getattr(error, "result", result), arguments, reports)
            raise
    assert result is not None
    return _tell(result, arguments, reports)


def _tell(result: Any, arguments: MirrorArguments, reports: list[str]) -> int:
    """Say what was done, and then write the reports: one that cannot be written hides nothing of the rest."""
    from framefetch.ui.progress import bytes_text

    if result is None:
        return EXIT_FATAL
    summary = result.summary()
    if arguments.json:
        print(json.dumps(summary), flush=True)
    if not arguments.quiet:
        parts = [
            f"{summary[name]:,} {name}"
            for name in ("downloaded", "cached", "failed", "invalid", "cancelled")
            if summary[name]
        ]
        files = f", {counted(summary['files'], 'file')}" if summary["files"] != summary["rows"] else ""
        say(
            f"{counted(summary['rows'], 'row')}{files}: {', '.join(parts) or 'nothing to do'}; "
            f"{bytes_text(summary['bytes'])} in {counted(summary['requests'], 'request')}, {summary['seconds']:.1f} s"
        )
        _name_failures(result.messages(SHOWN_FAILURES), summary["failed"] + summary["invalid"])
    if not _report(result, reports):
        return EXIT_FATAL
    return EXIT_FAILED if summary["failed"] or summary["invalid"] or summary["cancelled"] else 0


def _report(result: Any, reports: list[str]) -> bool:
    """Write reports; say why one cannot be written, and return whether all could."""
    written = True
    for path in reports:
        from framefetch.ui.report import write_report

        try:
            write_report(result.frame, path)
        except StorageError as error:
            say(str(error))
            written = False
    return written


def _name_failures(messages: Sequence[str], count: int) -> None:
    for message in messages:
        say(f"  {in_words(message)}")
    if count > len(messages):
        say(f"  … and {count - len(messages):,} more; --report FILE.csv names them all")


# -- all of them ------------------------------------------------------------------------------------------------


def demo(arguments: DemoArguments) -> int:
    """Show the whole job on this machine: a small warehouse, a table, a mirror, and a second run that costs nothing."""
    from framefetch.ui.demo import run_demo

    with errors_as_lines():
        return run_demo(arguments.folder)


ABOUT: Final = "A table of files goes in; verified files and a table come out."
COMMANDS: Final = (
    Command("mirror", MirrorArguments, mirror),
    Command("status", StatusArguments, upkeep.status),
    Command("verify", VerifyArguments, upkeep.verify),
    Command("prune", PruneArguments, upkeep.prune),
    Command("rebuild", RebuildArguments, upkeep.rebuild),
    Command("export", ExportArguments, upkeep.export_json),
    Command("import", ImportArguments, upkeep.import_json),
    Command("demo", DemoArguments, demo),
)
