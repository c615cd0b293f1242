"""Reports: the result's table as a file, index first, rows in input order."""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

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
    if os.path.isdir(path):
        raise PlanError(f"--report {path}: expected a file to write, this is a folder")
    plain = not os.path.exists(path) or os.path.isfile(path)  # which is made beside what it replaces
    if not (os.access(folder, os.W_OK | os.X_OK) if plain else os.access(path, os.W_OK)):
        raise PlanError(f"--report {path}: it may not be written there; choose another folder")
    if path.lower().endswith(".parquet") and not any(map(find_spec, ("pyarrow", "fastparquet"))):
        raise PlanError(f"--report {path}: Parquet needs pyarrow: pip install 'framefetch[parquet]'")
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
    except OSError as error:
        raise StorageError(f"writing {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, NotImplementedError) as error:  # what Parquet cannot hold
        raise StorageError(f"writing {path}: {' '.join(str(error).split())}") from error


def _write(frame: pd.DataFrame, path: str, part: str) -> None:
    table = frame.reset_index(names=_level_names(frame))
    try:
        _write_table(table, path, part)
    except UnicodeEncodeError:  # a text with half a character in it, as a file's name may be, is written escaped
        _write_table(_escaped(table), path, part)


def _level_names(frame: pd.DataFrame) -> list[str]:
    """Return how the levels of an index are called as columns: no two alike, and none as a column of the frame."""
    only = frame.index.nlevels == 1
    taken = set(frame.columns)
    names = []
    for level, given in enumerate(frame.index.names):
        name = str(given) if given is not None else "index" if only else f"index_{level}"
        while name in taken:
            name = f"index_{name}"
        taken.add(name)
        names.append(name)
    return names


def _escaped(table: pd.DataFrame) -> pd.DataFrame:
    def escape(cell: Any) -> Any:
        return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell

    texts = {str(name): [escape(cell) for cell in table[name]] for name in table if table[name].dtype.kind == "O"}
    return table.assign(**texts).rename(columns=escape)


def _write_table(table: pd.DataFrame, path: str, part: str) -> None:
    if path.lower().endswith(".csv"):
        table.to_csv(part, index=False)
    elif path.lower().endswith(".json"):
        table.to_json(part, orient="records", indent=1, force_ascii=False, date_format="iso")
    elif path.lower().endswith(".html"):
        with open(part, "w", encoding="utf-8") as page:
            page.write(_PAGE.format(table=table.to_html(index=False, border=0, na_rep="", max_rows=None)))
    elif part != path:
        table.to_parquet(part, index=False)
    else:  # pyarrow asks a file where it stands, which a pipe does not know
        with open(path, "wb") as file:
            file.write(table.to_parquet(index=False))
