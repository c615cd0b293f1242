"""What of a plan is held: what is plain by columns, the rest up the ladder; and first of all what is missing for sure.

Where much is held and something is missing, most of the look is at files that need nothing, while the network waits. So
the files are divided: those at whose place nothing stands are looked for first, and are fetched while the look at all
the others goes on.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import numpy as np

from framefetch.models import Outcome, Status
from framefetch.store.glance import glance, missing_places
from framefetch.store.held import HeldCheck
from framefetch.table.result import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from framefetch.models import Entry
    from framefetch.options import Options
    from framefetch.store.folder import CacheFolder
    from framefetch.table.ledger import Ledger
    from framefetch.table.planned import PlannedRows

__all__ = ["LookUp", "look_only"]

#: Files that are looked at within some hundredths of a second: dividing them would win nothing.
FEW: Final = 4096


class LookUp:
    """The look at what is held of one plan; everything here is blocking.

    Parameters
    ----------
    rows : PlannedRows
        The plan.
    folder : CacheFolder
        Where files are held.
    options : Options
        How closely to look.
    ledger : Ledger
        Where is noted what is held, and what cannot be.
    fixed_paths : bool
        Whether a file must be where the plan says.
    stopped : callable
        Whether to look no further.

    Attributes
    ----------
    warnings : list of str
        For the caller.
    """

    def __init__(
        self,
        rows: PlannedRows,
        folder: CacheFolder,
        options: Options,
        ledger: Ledger,
        *,
        fixed_paths: bool,
        stopped: Callable[[], bool],
    ) -> None:
        self._rows = rows
        self._folder = folder
        self._level = options.verify
        self._ledger = ledger
        self._fixed_paths = fixed_paths
        self._stopped = stopped
        self._ended = False
        self._unknown = np.zeros(len(rows.requests), dtype=bool)
        self.warnings: list[str] = []

    def end(self) -> None:
        """Let a look that is under way end soon: nobody waits for what it finds."""
        self._ended = True

    def is_unknown(self, file: int) -> bool:
        """Return whether no entry knew the key of a file when it was looked for."""
        return bool(self._unknown[file])

    def divide(self, used: array[int]) -> tuple[array[int], array[int]]:
        """Return the files that had better be looked for first, and the others; in the order of the plan both.

        Not where all is hashed: that can take hours, for which nobody would be told what is fetched meanwhile.

        Raises
        ------
        StorageError
            Where no file of the version can be held.
        """
        self._folder.require_place(self._rows.requests.version)
        few = len(used) <= FEW or self._level != "stat"
        if few or not self._folder.manifest.knows_version(self._rows.requests.version):
            return used, array("q")
        missing = missing_places(self._rows.requests, used, self._folder.root)
        if not missing:
            return used, array("q")
        of_all = np.frombuffer(used, dtype=np.int64)
        others = of_all[~np.isin(of_all, missing)]
        return array("q", missing), array("q", others.tobytes())

    def look(self, used: array[int]) -> list[int]:
        """Record what is held; return the files that are not.

        Raises
        ------
        ManifestError
            Where it cannot be read.
        """
        check = HeldCheck(self._folder.files, self._folder.manifest, self._level, fixed_paths=self._fixed_paths)
        requests = self._rows.requests
        held = np.zeros(len(requests), dtype=bool)
        refreshed = []
        for finding in check.run(requests, self._glance(used, held)):
            if self._ended or self._stopped():
                return []
            held[finding.index] = True
            planned = requests.path(finding.index)
            self._ledger.record_held(finding.index, finding.receipt, None if finding.path == planned else finding.path)
            if finding.entry is not None:
                refreshed.append(finding.entry)
        if refreshed and self._folder.writable:
            self._folder.manifest.commit(refreshed)
        elif refreshed:
            self._note(refreshed, check.report.read)
        for path, seen in check.report.ours.items():
            self._folder.files.own(path, seen)
        for file, error in check.report.blocked.items():
            self._ledger.record([Outcome(requests[file], Status.FAILED, error=error)])
            held[file] = True
        self.warnings += check.report.warnings
        return [file for file in used if not held[file]]

    def _note(self, refreshed: Sequence[Entry], read: int) -> None:
        """Keep in mind what cannot be recorded."""
        _keep_in_mind(self._folder, refreshed)
        if read and self._level == "stat":
            self.warnings.append(
                f"{read:,} files had to be read: their times are not as recorded (chmod, chown and links change them, "
                "too), and in a cache that cannot be written it cannot be recorded that their bytes are right; "
                "a run with the permission to write does that once and for all"
            )

    def look_again(self, waiting: Sequence[int]) -> list[int]:
        """Record what others have recorded meanwhile; return the rest."""
        held = np.zeros(len(self._rows.requests), dtype=bool)
        self._glance(array("q", waiting), held)
        return [file for file in waiting if not held[file]]

    def _glance(self, used: array[int], held: np.ndarray[Any, np.dtype[np.bool_]]) -> array[int]:
        """Record what is plainly held; return the files that must be looked at more closely."""
        if self._level != "stat":
            return used
        doubtful, unknown = array("q"), array("q")
        for found in glance(self._rows.requests, used, self._folder.manifest, self._folder.root, doubtful, unknown):
            held[found.files] = True
            self._ledger.record_plain(*found)
            if self._ended or self._stopped():
                break
        self._unknown[unknown] = True
        return doubtful


def _keep_in_mind(folder: CacheFolder, found: Sequence[Entry]) -> None:
    """Let files that were read, and cannot be recorded now, be known for as long as the folder is open."""
    folder.manifest.noted.update((entry.path, entry) for entry in found)


def look_only(rows: PlannedRows, folder: CacheFolder, *, options: Options, fixed_paths: bool) -> Plan:
    """Return what a run would find, and change nothing; blocking.

    Parameters
    ----------
    rows, folder, options, fixed_paths
        As for `LookUp`.

    Raises
    ------
    StorageError
        Where no file of the version can be held.
    """
    folder.require_place(rows.requests.version)
    check = HeldCheck(folder.files, folder.manifest, options.verify, fixed_paths=fixed_paths, look_only=True)
    held = np.zeros(len(rows.requests), dtype=bool)
    doubtful = rows.used()
    if options.verify == "stat":
        doubtful, used = array("q"), doubtful
        for found in glance(rows.requests, used, folder.manifest, folder.root, doubtful, array("q")):
            held[found.files] = True
    read = []
    for finding in check.run(rows.requests, doubtful):
        held[finding.index] = True
        read += [] if finding.entry is None else [finding.entry]
    _keep_in_mind(folder, read)
    blocked = check.report.blocked
    for file, first in rows.requests.copy_of.items():
        if first in blocked and not held[file]:
            blocked.setdefault(file, blocked[first])
    return Plan(rows, held, folder.free_space(), blocked)
