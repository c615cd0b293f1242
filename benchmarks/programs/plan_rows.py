"""Plan a table once and print, as JSON, what it cost above the table itself: ``plan_rows.py TABLE DIR``."""

import contextlib
import ctypes
import gc
import json
import re
import resource
import sys
import time

import pandas as pd

from framefetch import MetadataCache


def release_unused_memory() -> None:
    """Give back what reading the table left over, so that the plan is not served from it for free."""
    gc.collect()
    with contextlib.suppress(ImportError):
        import pyarrow as pa

        pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def read_status(field: str) -> int:
    with open("/proc/self/status") as file:
        found = re.search(rf"^{field}:\s+(\d+) kB", file.read(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def forget_peak() -> None:
    """Start the kernel's peak anew (Linux), so that reading the table is not the peak."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def main() -> None:
    table, folder = sys.argv[1:]
    frame = pd.read_csv(table)
    release_unused_memory()
    forget_peak()
    before = read_status("VmRSS")
    started = time.perf_counter()
    with MetadataCache(frame, folder) as cache:
        opened = time.perf_counter()
        plan = cache.plan(frame)
        planned = time.perf_counter()
        figures = {
            "rows": len(frame),
            "seconds": planned - opened,
            "open_seconds": opened - started,
            "table_and_imports_bytes": before,
            "peak_bytes": read_status("VmHWM"),
            "ru_maxrss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        figures["to_fetch"] = int(plan.summary()["to_fetch"])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
