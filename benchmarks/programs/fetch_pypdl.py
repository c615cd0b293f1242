"""Fetch a table with pypdl: ``fetch_pypdl.py TABLE DIR connections=16 splits=1``."""

import csv
import os
import sys

from pypdl import Pypdl


def main() -> int:
    table, folder, *settings = sys.argv[1:]
    numbers = {name: int(value) for name, value in (setting.split("=") for setting in settings)}
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    for below in {os.path.dirname(row["path"]) for row in rows}:
        os.makedirs(os.path.join(folder, below), exist_ok=True)
    tasks = [{"url": row["url"], "file_path": os.path.join(folder, row["path"])} for row in rows]
    splits = {"multisegment": numbers["splits"] > 1, "segments": numbers["splits"]}
    downloader = Pypdl(max_concurrent=numbers["connections"])
    downloader.start(tasks=tasks, display=False, overwrite=False, **splits)
    for failure in downloader.failed[:3]:
        print(failure, file=sys.stderr)
    return 1 if downloader.failed else 0


if __name__ == "__main__":
    sys.exit(main())
