"""How fast MD5 is when so many files are digested at once: by framefetch, and by hashlib.

    python benchmarks/programs/md5_lanes.py

Each thread digests a mebibyte of its own again and again. For one, two, four and eight of them it prints the GB that
all digest in a second, and in a second of CPU time.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from framefetch.native.at_once import at_once

TIMES = 200


def measure(make: Callable[[], Any], count: int) -> tuple[float, float]:
    """Return GB a second, and a second of CPU time."""
    blocks = [os.urandom(1 << 20) for _ in range(count)]

    def work(block: bytes) -> None:
        digest = make()
        for _ in range(TIMES):
            digest.update(block)

    threads = [threading.Thread(target=work, args=(block,)) for block in blocks]
    began, used = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = count * TIMES * (1 << 20) / 1e9
    return total / (time.perf_counter() - began), total / (time.process_time() - used)


def main() -> None:
    """Print a line for each number of threads."""
    print("threads  framefetch GB/s (a CPU second)  hashlib GB/s (a CPU second)")
    for count in (1, 2, 4, 8):
        ours, theirs = measure(at_once.Md5, count), measure(hashlib.md5, count)
        print(f"{count:7}  {ours[0]:15.2f} ({ours[1]:.2f})          {theirs[0]:12.2f} ({theirs[1]:.2f})")


if __name__ == "__main__":
    main()
