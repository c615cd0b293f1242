"""Ask for files that are held already and print, as JSON, what that took: ``fetch_held.py TABLE DIR``."""

import asyncio
import contextlib
import importlib
import json
import pkgutil
import sys
import time

import pandas as pd

import framefetch


def import_everything() -> None:
    """Import all of framefetch that can be, so that no import is in the figure."""
    for module in pkgutil.walk_packages(framefetch.__path__, "framefetch."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def main() -> None:
    table, folder = sys.argv[1:]
    import_everything()
    frame = pd.read_csv(table)
    options = framefetch.TableOptions(suffix="")
    started = time.perf_counter()
    with framefetch.MetadataCache(frame, folder, table=options) as cache:
        opened = time.perf_counter()
        result = asyncio.run(cache.fetch_all(frame))
        done = time.perf_counter()
        statuses = result.frame["status"].astype(str).value_counts().to_dict()
    print(json.dumps({"open_seconds": opened - started, "seconds": done - opened, "statuses": statuses}))


if __name__ == "__main__":
    main()
