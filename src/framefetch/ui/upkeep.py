"""The commands that look after a cache: what it holds, whether that is true, what may go, and a manifest made anew."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from framefetch.errors import ManifestError
from framefetch.ui.arguments import parse_host_map
from framefetch.ui.console import EXIT_FAILED, confirm, errors_as_lines, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from framefetch.store.audit import AuditFinding
    from framefetch.store.folder import CacheFolder
    from framefetch.store.prune import PruneReport
    from framefetch.ui.arguments import (
        ExportArguments,
        ImportArguments,
        PruneArguments,
        RebuildArguments,
        StatusArguments,
        VerifyArguments,
    )

__all__ = ["export_json", "import_json", "prune", "rebuild", "status", "verify"]

#: Files that are named before somebody is asked whether they may go.
SHOWN_PATHS = 20


def status(arguments: StatusArguments) -> int:
    """Say how many files and bytes a cache holds."""
    from framefetch.store.audit import count_holdings
    from framefetch.store.folder import CacheFolder
    from framefetch.ui.progress import bytes_text

    with errors_as_lines(), CacheFolder(os.path.expanduser(arguments.cache_dir), create=False, mend=False) as folder:
        _mention_older(folder)
        holdings = count_holdings(folder.manifest)
        free = folder.free_space()
    if arguments.json:
        print(json.dumps({**asdict(holdings), "free_space": free}))
        return 0
    print(f"{holdings.files:,} files, {bytes_text(holdings.bytes)}; {bytes_text(free)} free")
    for name, count in holdings.versions.items():
        print(f"  version {name}: {count:,} files")
    for name, count in holdings.verified.items():
        print(f"  verified by {name}: {count:,} files")
    return 0


def _print_findings(findings: Sequence[AuditFinding]) -> None:
    for finding in findings:
        print(f"{finding.kind}\t{finding.path}\t{finding.detail}")


def _mention_older(folder: CacheFolder) -> None:
    if folder.older is not None:
        say(f"{folder.older} is not taken over to its end yet; the next mirror goes on with it")


def _mention_others(folder: CacheFolder) -> None:
    """Say who fetches into the cache just now: what they have under way looks like an untruth."""
    _mention_older(folder)
    for owner in folder.presence.others():
        say(f"{owner} is fetching into this cache; files it has not recorded yet show as unknown")


def verify(arguments: VerifyArguments) -> int:
    """Compare the manifest with the disk; exit code 1 where they differ."""
    from framefetch.store.audit import audit, count_holdings
    from framefetch.store.folder import CacheFolder
    from framefetch.ui.progress import Reading, bytes_text

    with errors_as_lines(), CacheFolder(os.path.expanduser(arguments.cache_dir), create=False, mend=False) as folder:
        _mention_others(folder)
        holdings = count_holdings(folder.manifest)
        with Reading(holdings) as watch:
            findings = list(
                audit(folder.files, folder.manifest, level="hash" if arguments.hash else "stat", watch=watch.advance)
            )
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    elif findings:
        _print_findings(findings)
    else:
        say(f"{holdings.files:,} files, {bytes_text(holdings.bytes)}: all as recorded")
    return EXIT_FAILED if findings else 0


def prune(arguments: PruneArguments) -> int:
    """Remove the files that no row of a table wants, and only those that the manifest owns and that are as it says.

    On a terminal it says first what would be removed, and asks. Exit code 1 where something was left that nobody wants,
    also because the answer was no.
    """
    from framefetch.store.folder import CacheFolder
    from framefetch.store.prune import prune as prune_folder
    from framefetch.table.plan import plan_rows
    from framefetch.table.text import read_rows

    with errors_as_lines():
        table = arguments.table_options()
        wanted = plan_rows(read_rows(arguments.keep, table, arguments.where), table, arguments.version).named()
        with CacheFolder(os.path.expanduser(arguments.cache_dir), create=False, mend=False) as folder:
            ask = not arguments.dry_run and not arguments.yes and sys.stdin.isatty()
            if ask:
                would = prune_folder(folder, arguments.version, wanted, dry_run=True)
                if would.removed or would.parts:
                    _name_some(would.removed)
                    say(f"would remove {_removed(would)}")
                    if not confirm("Remove them?"):
                        return EXIT_FAILED
            report = prune_folder(folder, arguments.version, wanted, dry_run=arguments.dry_run)
    if arguments.json:
        print(json.dumps({**asdict(report), "dry_run": arguments.dry_run}))
    else:
        for path in report.removed:
            print(f"{'would remove' if arguments.dry_run else 'removed'}\t{path}")
        _print_findings(report.left)
        say(f"{'would remove' if arguments.dry_run else 'removed'} {_removed(report)}")
    return EXIT_FAILED if report.left else 0


def _name_some(paths: Sequence[str]) -> None:
    for path in paths[:SHOWN_PATHS]:
        say(f"  {path}")
    if len(paths) > SHOWN_PATHS:
        say(f"  … and {len(paths) - SHOWN_PATHS:,} more; --dry-run names them all")


def _removed(report: PruneReport) -> str:
    from framefetch.ui.progress import bytes_text

    parts = f" and {report.parts:,} unfinished" if report.parts else ""
    left = f"; {len(report.left):,} are left, because they are not as recorded" if report.left else ""
    return f"{len(report.removed):,} files{parts}, {bytes_text(report.bytes)}; {report.kept:,} are wanted{left}"


def rebuild(arguments: RebuildArguments) -> int:
    """Make the manifest anew from the files: each one that something explains is read, and believed if it is right.

    Files are explained by what is left of the manifest, by what was set aside of it, by a prototype's manifest.json and
    by the digests of a table. What nothing explains is reported and left alone. Exit code 1 where anything is reported.
    """
    from framefetch.store.folder import CacheFolder
    from framefetch.store.rebuild import rebuild as rebuild_folder
    from framefetch.ui.progress import Reading

    with errors_as_lines():
        requests = _requests(arguments)
        _require_a_cache(arguments)
        with CacheFolder(os.path.expanduser(arguments.cache_dir), create=False) as folder:
            with Reading(None) as watch:
                report = rebuild_folder(folder, requests, parse_host_map(arguments.host_map or []), watch=watch.advance)
            for notice in folder.files.notices:
                say(notice)
    if arguments.json:
        print(json.dumps(asdict(report)))
    else:
        _print_findings(report.findings)
        kinds = Counter(finding.kind for finding in report.findings)
        blocked = f"{kinds['blocked']:,} files cannot be read, " if kinds["blocked"] else ""
        print(
            f"{report.held:,} files held, {report.adopted:,} of them newly recorded; {blocked}"
            f"{kinds.total() - kinds['unknown'] - kinds['blocked']:,} entries forgotten, "
            f"{kinds['unknown']:,} files unexplained"
        )
    return EXIT_FAILED if report.findings else 0


def _requests(arguments: RebuildArguments) -> Any:
    if arguments.table is None:
        return None
    from framefetch.table.plan import plan_rows
    from framefetch.table.text import read_rows

    table = arguments.table_options()
    return plan_rows(read_rows(arguments.table, table, arguments.where), table, arguments.version).requests


def _require_a_cache(arguments: RebuildArguments) -> None:
    """Refuse to make a manifest in just any folder."""
    folder = os.path.expanduser(arguments.cache_dir)
    signs = ("manifest.sqlite", ".framefetch", "manifest.json", arguments.version)
    if os.path.isdir(folder) and not any(os.path.lexists(os.path.join(folder, sign)) for sign in signs):
        raise ManifestError(f"{folder}: expected a cache that 'framefetch mirror' made; it has none of {signs}")


def export_json(arguments: ExportArguments) -> int:
    """Write the manifest as JSON in the notebook prototype's layout.

    Each file_path is relative to the cache. To be imported elsewhere, the JSON must lie in the cache that it is of
    (framefetch export CACHE CACHE/manifest.json), or the import be made from there.
    """
    from framefetch.store.exchange import export_manifest, print_manifest
    from framefetch.store.folder import OLDER, CacheFolder
    from framefetch.store.targets import require_not_held, require_not_the_caches_own

    printed = arguments.target == "-" or _is_stdout(arguments.target)
    with errors_as_lines():
        if not printed:
            require_not_the_caches_own(arguments.target, os.path.expanduser(arguments.cache_dir), but=OLDER)
        with CacheFolder(os.path.expanduser(arguments.cache_dir), create=False, mend=False) as folder:
            if not printed:
                require_not_held(arguments.target, folder)
                folder.require_taken_over(arguments.target)
            if printed:
                with open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False) as out:
                    count = print_manifest(folder.manifest, out)
            else:
                count = export_manifest(folder.manifest, arguments.target)
    if printed:
        say(f"{count:,} entries written")
    else:
        print(f"{count:,} entries written to {arguments.target}; their paths are relative to {arguments.cache_dir}")
    return 0


def _is_stdout(target: str) -> bool:
    """Return whether a path, such as /dev/stdout, leads to what stdout is."""
    try:
        return os.path.samestat(os.stat(target), os.fstat(sys.stdout.fileno()))
    except OSError:
        return False


def import_json(arguments: ImportArguments) -> int:
    """Take over a notebook prototype's cache without downloading anything; each file is hashed first.

    A relative file_path is looked for in CACHE_DIR, beside the manifest and in the working folder. Exit code 1 where
    files were skipped.
    """
    with errors_as_lines():
        mapping = parse_host_map(arguments.host_map or [])
        from framefetch.options import Options
        from framefetch.works import Works

        works = Works(arguments.cache_dir, Options(), mapping)
        try:
            report = works.import_manifest(arguments.source)
        finally:
            works.close()
    print(f"{report.imported:,} entries imported, {len(report.skipped):,} skipped")
    for url, reason in report.skipped:
        say(f"skipped {url}: {reason}")
    return EXIT_FAILED if report.skipped else 0
