"""Fetch a table with pooch in threads: ``fetch_pooch.py TABLE DIR connections=16``; pooch compares md5 itself."""

import csv
import sys
from concurrent.futures import ThreadPoolExecutor

import pooch


def main() -> None:
    table, folder, *settings = sys.argv[1:]
    numbers = {name: int(value) for name, value in (setting.split("=") for setting in settings)}
    pooch.get_logger().setLevel("WARNING")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    registry = {row["path"]: f"md5:{row['md5']}" for row in rows}
    urls = {row["path"]: row["url"] for row in rows}
    store = pooch.create(path=folder, base_url="", registry=registry, urls=urls)
    with ThreadPoolExecutor(numbers["connections"]) as pool:
        for _ in pool.map(store.fetch, registry):
            pass


if __name__ == "__main__":
    main()
