"""Fetch a table with parfive: ``fetch_parfive.py TABLE DIR connections=16 splits=1``."""

import csv
import os
import sys

from parfive import Downloader


def main() -> int:
    table, folder, *settings = sys.argv[1:]
    numbers = {name: int(value) for name, value in (setting.split("=") for setting in settings)}
    downloader = Downloader(progress=False, max_conn=numbers["connections"], max_splits=numbers["splits"])
    with open(table, newline="") as file:
        for row in csv.DictReader(file):
            below, name = os.path.split(row["path"])
            downloader.enqueue_file(row["url"], path=os.path.join(folder, below), filename=name)
    results = downloader.download()
    for error in results.errors[:3]:
        print(error, file=sys.stderr)
    return 1 if results.errors else 0


if __name__ == "__main__":
    sys.exit(main())
