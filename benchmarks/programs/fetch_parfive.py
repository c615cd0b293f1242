"""Fetch a table with parfive: ``fetch_parfive.py TABLE DIR [max_conn=16 max_splits=1 ...]``."""

import csv
import sys

from parfive import Downloader


def main() -> int:
    table, folder, *settings = sys.argv[1:]
    numbers = {name: int(value) for name, value in (setting.split("=") for setting in settings)}
    downloader = Downloader(progress=False, **numbers)
    with open(table, newline="") as file:
        for row in csv.DictReader(file):
            downloader.enqueue_file(row["url"], path=folder)
    results = downloader.download()
    for error in results.errors[:3]:
        print(error, file=sys.stderr)
    return 1 if results.errors else 0


if __name__ == "__main__":
    sys.exit(main())
