"""``framefetch demo``: the whole job on one machine, against a small warehouse of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pandas as pd

from framefetch.cache import MetadataCache
from framefetch.errors import PlanError
from framefetch.options import Options
from framefetch.ui.console import counted
from framefetch.ui.progress import Progress, bytes_text
from framefetch.warehouse import WarehouseThread, hdf5_file

if TYPE_CHECKING:
    from framefetch.table.result import FetchResult

__all__ = ["make_table", "run_demo"]

#: Where the table says the files are; the host map leads to this machine instead, as through a tunnel.
HOST = "testwarehouse:9000"
_GENOTYPES = (
    ("Slc17a7-IRES2-Cre/wt;Camk2a-tTA/wt;Ai93(TITL-GCaMP6f)/wt", "Ai93(TITL-GCaMP6f)", "VISp"),
    ("Vip-IRES-Cre/wt;Ai148(TIT2L-GC6f-ICL-tTA2)/wt", "Ai148(TIT2L-GC6f-ICL-tTA2)", "VISp"),
    ("Sst-IRES-Cre/wt;Ai148(TIT2L-GC6f-ICL-tTA2)/wt", "Ai148(TIT2L-GC6f-ICL-tTA2)", "VISl"),
)
QUERY = "full_genotype == 'Vip-IRES-Cre/wt;Ai148(TIT2L-GC6f-ICL-tTA2)/wt'"
FIRST_ID = 1_085_755_199


def make_table(rows: int = 60) -> pd.DataFrame:
    """Return a table with the columns of the Visual Behavior release."""
    kinds = [_GENOTYPES[row % len(_GENOTYPES)] for row in range(rows)]
    return pd.DataFrame(
        {
            "ophys_session_id": [775_600_000 + row for row in range(rows)],
            "full_genotype": [kind[0] for kind in kinds],
            "reporter_line": [kind[1] for kind in kinds],
            "targeted_structure": [kind[2] for kind in kinds],
            "wkf": [f"http://{HOST}/api/v2/well_known_file_download/{FIRST_ID + row}" for row in range(rows)],
        }
    )


def run_demo(folder: str) -> int:
    """Run the demonstration.

    Parameters
    ----------
    folder : str
        Where the table and the cache are made; an earlier demonstration there is used again.

    Returns
    -------
    int
        0 where everything went as it should.

    Raises
    ------
    PlanError
        Where the folder cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise PlanError(f"{folder}: {error.strerror}; expected a folder to work in") from error
    csv = os.path.join(folder, "big_table.csv")
    table = make_table()
    table.to_csv(csv, index=False)
    with WarehouseThread() as warehouse:
        for row, url in enumerate(table["wkf"]):
            warehouse.add(url.rpartition("/")[2], hdf5_file(200_000 + 40_000 * row, seed=row))
        print(f"A warehouse serves {len(table)} NWB files at {warehouse.base_url}; the table {csv} names them.")
        print(f'Filter: dataframe.query("{QUERY}")')
        host_map = {HOST: f"127.0.0.1:{warehouse.port}"}
        options = Options(observers=(Progress(),))
        with MetadataCache(csv, os.path.join(folder, "cache"), host_map=host_map, options=options) as cache:
            subset = cache.dataframe.query(QUERY)
            print(f"  {len(subset)} of {len(table)} rows")
            first = _told("First run", cache.mirror(subset))
            second = _told("Second run", cache.mirror(subset))
            findings = cache.verify("hash")
            print("\n" + first.frame[["status", "path", "md5", "size"]].head(3).to_string(max_colwidth=60) + "\n")
            print(f"Every byte read again: {len(findings)} findings.")
    return 0 if second.ok.all() and not second.summary()["requests"] and not findings else 1


def _told(name: str, result: FetchResult) -> FetchResult:
    """Print what a run did, and return its result."""
    figures = result.summary()
    print(
        f"{name}: {figures['downloaded']} downloaded, {figures['cached']} cached, "
        f"{counted(figures['requests'], 'request')}, {bytes_text(figures['bytes'])}, {figures['seconds']:.2f} s"
    )
    return result
