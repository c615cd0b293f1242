"""Fetch a table with pooch in threads: ``fetch_pooch.py TABLE DIR THREADS``; pooch compares md5 itself."""

import csv
import sys
from concurrent.futures import ThreadPoolExecutor

import pooch


def main() -> None:
    table, folder, threads = sys.argv[1:]
    pooch.get_logger().setLevel("WARNING")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["url"].rpartition("/")[2] for row in rows]
    registry = {name: f"md5:{row['md5']}" for name, row in zip(names, rows, strict=True)}
    urls = {name: row["url"] for name, row in zip(names, rows, strict=True)}
    store = pooch.create(path=folder, base_url="", registry=registry, urls=urls)
    with ThreadPoolExecutor(int(threads)) as pool:
        for _ in pool.map(store.fetch, names):
            pass


if __name__ == "__main__":
    main()
