"""Fetch a table with 16 connections and print how long that took, as JSON: ``fetch_rate.py PEER ONE TABLE DIR``.

The table ONE, of a single file, is fetched first: what is imported and set up once is not counted, for anybody. Nor is
the interpreter's walk over all that was imported, which is due at some time in the run after it: 50 ms with pandas.
"""

import asyncio
import csv
import gc
import json
import os
import sys
import time
from collections.abc import Callable

CONNECTIONS = 16


def framefetch(one: str, table: str, folder: str) -> Callable[[], None]:
    import pandas as pd

    from framefetch import Limits, MetadataCache, Options

    cache = MetadataCache(table, folder, options=Options(limits=Limits(per_host=CONNECTIONS)))
    cache.mirror(pd.read_csv(one)).raise_for_failures()
    return lambda: cache.mirror(cache.dataframe).raise_for_failures()


def parfive(one: str, table: str, folder: str) -> Callable[[], None]:
    from parfive import Downloader

    def prepared(rows: str) -> Callable[[], None]:
        downloader = Downloader(progress=False, max_conn=CONNECTIONS)  # and everything else as it comes
        with open(rows, newline="") as file:
            for row in csv.DictReader(file):
                downloader.enqueue_file(row["url"], path=folder, filename=row["path"])

        def download() -> None:
            errors = downloader.download().errors
            if errors:
                raise RuntimeError(str(errors[0]))

        return download

    prepared(one)()
    return prepared(table)


def prototype(one: str, table: str, folder: str) -> Callable[[], None]:
    import pandas as pd

    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from prototype import MetadataCache

    cache = MetadataCache(table, folder)
    asyncio.run(cache.get_all_files(pd.read_csv(one)))
    return lambda: asyncio.run(cache.get_all_files(cache.dataframe))


def main() -> None:
    peer, one, table, folder = sys.argv[1:]
    fetch = {"framefetch": framefetch, "parfive": parfive, "prototype": prototype}[peer](one, table, folder)
    gc.collect()
    began = time.perf_counter()
    fetch()
    print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
