"""Reports: the result's table as a file, index first, rows in input order."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from framefetch.errors import ManifestError, PlanError, StorageError
from framefetch.store.folder import CacheFolder
from framefetch.store.manifest import Manifest
from framefetch.store.targets import held_there, place_in, require_not_held, require_not_the_caches_own, write_target

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["REPORT_SUFFIXES", "check_report", "write_report"]

REPORT_SUFFIXES = (".csv", ".parquet", ".json", ".html")

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>framefetch</title>
<style>
body {{ font: 14px system-ui, sans-serif }}
table {{ border-collapse: collapse }}
th, td {{ text-align: left; vertical-align: top; padding: 2px 12px 2px 0; white-space: nowrap }}
th {{ position: sticky; top: 0; background: white }}
tbody tr:nth-child(odd) {{ background: #f4f4f4 }}
</style>
</head>
<body>
{table}
</body>
</html>
"""


def check_report(path: str, table: str, cache_dir: str, version: str) -> str:
    """Return the path if a report can be written there in a format its suffix names.

    Parameters
    ----------
    path : str
        Where the report is to be.
    table, cache_dir, version : str
        What must not be written over: the table that is read, and what the cache holds and keeps for itself.

    Raises
    ------
    PlanError
        Where it cannot.
    """
    if not path.lower().endswith(REPORT_SUFFIXES):
        raise PlanError(f"--report {path}: expected a file ending in {', '.join(REPORT_SUFFIXES)}")
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise PlanError(f"--report {path}: there is no folder {folder}")
    if os.path.exists(path) and os.path.exists(table) and os.path.samefile(path, table):
        raise PlanError(f"--report {path}: this is the table itself, which would be lost; choose another name")
    _require_not_in_the_way(path, os.path.expanduser(cache_dir), version)
    return path


def _require_not_in_the_way(path: str, cache_dir: str, version: str) -> None:
    require_not_the_caches_own(path, cache_dir)
    place = place_in(path, cache_dir)
    if place is None:
        return
    if place.startswith(f"{version}/"):
        raise held_there(path)
    if os.path.exists(os.path.join(cache_dir, Manifest.NAME)):
        # A manifest that cannot be used is told of, or made anew, by the run itself.
        with contextlib.suppress(ManifestError), CacheFolder(cache_dir, create=False, mend=False) as folder:
            require_not_held(path, folder)


def write_report(frame: pd.DataFrame, path: str) -> None:
    """Write a frame atomically, to where a link leads; a device or a pipe is written into.

    Raises
    ------
    StorageError
        Where it cannot be written.
    """
    try:
        write_target(path, lambda part: _write(frame, path, part))
    except ImportError as error:
        raise StorageError(f"writing {path}: Parquet needs pyarrow: pip install 'framefetch[parquet]'") from error
    except OSError as error:
        raise StorageError(f"writing {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, NotImplementedError) as error:  # what Parquet cannot hold, a name of two columns
        raise StorageError(f"writing {path}: {' '.join(str(error).split())}") from error


def _write(frame: pd.DataFrame, path: str, part: str) -> None:
    index = [name if name is not None else f"index_{level}" for level, name in enumerate(frame.index.names)]
    if frame.index.nlevels == 1 and frame.index.name is None:
        index = ["index"]
    table = frame.reset_index(names=index)
    if path.lower().endswith(".csv"):
        table.to_csv(part, index=False)
    elif path.lower().endswith(".json"):
        table.to_json(part, orient="records", indent=1, force_ascii=False, date_format="iso")
    elif path.lower().endswith(".html"):
        # A text with half a character in it, as a file's name may be, is shown with that as an escape.
        with open(part, "w", encoding="utf-8", errors="backslashreplace") as page:
            page.write(_PAGE.format(table=table.to_html(index=False, border=0, na_rep="", max_rows=None)))
    elif part != path:
        table.to_parquet(part, index=False)
    else:  # pyarrow asks a file where it stands, which a pipe does not know
        with open(path, "wb") as file:
            file.write(table.to_parquet(index=False))
