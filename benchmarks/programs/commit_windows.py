"""Fill a manifest, commit windows of new rows and print, as JSON, what one took: ``commit_windows.py ENTRIES DIR``."""

import json
import os
import random
import statistics
import sys
import time

from framefetch.models import Digest, Entry, Receipt, Verified
from framefetch.store.manifest import Manifest

#: So many windows that whatever is done only now and then is done in them.
WINDOW, WINDOWS, FILLED_AT_ONCE = 256, 600, 20_000
RECEIPT = Receipt(8192, 1, 1, 1, (Digest("md5", "0" * 32),), Verified.DIGEST)
#: Keys of no order, as the addresses of a real table: a tree that is appended to would be too kind.
DRAW = random.Random(1)


def entries(count: int) -> list[Entry]:
    names = [f"{DRAW.getrandbits(64):016x}.bin" for _ in range(count)]
    return [Entry("v0", f"http://host/data/{name}", f"v0/{name}", RECEIPT, 1.0) for name in names]


def main() -> None:
    count, folder = int(sys.argv[1]), sys.argv[2]
    os.makedirs(folder)
    manifest = Manifest(folder)
    for start in range(0, count, FILLED_AT_ONCE):
        manifest.commit(entries(min(FILLED_AT_ONCE, count - start)))
        manifest.flush()  # more than so many may not wait
    taken = []
    looked_at = manifest.last_window()  # as a fetch does, which has looked for its files before
    for _ in range(WINDOWS):
        window = entries(WINDOW)
        started = time.perf_counter()
        manifest.commit(window, unknown_at=looked_at)
        manifest.flush()
        taken.append(time.perf_counter() - started)
    manifest.close()
    figures = {"median_seconds": statistics.median(taken), "mean_seconds": statistics.mean(taken), "window": WINDOW}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
