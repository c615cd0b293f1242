"""Keep the free memory of this machine, and give it up as others need it, until standard input ends.

For each byte that it reads there it says `kept` when no more is free than is meant to be.

A virtual machine that reports free pages to its host loses them within seconds, and pays for each when it is touched
again. Pages that were given up a moment ago are still there.
"""

import mmap
import os
import select
import sys

MIB = 1 << 20
CHUNK = 32 * MIB
#: So much is left free, between these two.
LEAST, MOST = 384 * MIB, 640 * MIB
#: Seconds between two looks: what is allocated meanwhile must fit into the least.
LOOK = 0.002


def free(info: int) -> int:
    """Return the bytes that are free, the page cache not counted."""
    text = os.pread(info, 512, 0)
    return int(text.split(b"MemFree:", 1)[1].split(None, 1)[0]) * 1024


def kept_chunk() -> mmap.mmap:
    """Return memory that is there: each page of it has been written to."""
    chunk = mmap.mmap(-1, CHUNK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, CHUNK, mmap.PAGESIZE):
        chunk[at] = 1
    return chunk


def main() -> None:
    """Follow what is free, and say so where asked."""
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # whoever runs out of memory, this is what it was
    info = os.open("/proc/meminfo", os.O_RDONLY)
    chunks: list[mmap.mmap] = []
    while True:
        left = free(info)
        if left > MOST + CHUNK:
            chunks.append(kept_chunk())
            continue
        while left < LEAST and chunks:
            chunks.pop().close()
            left += CHUNK
        if select.select([sys.stdin], [], [], LOOK)[0]:
            asked = os.read(sys.stdin.fileno(), 1)
            if not asked:
                return
            print("kept", flush=True)


if __name__ == "__main__":
    main()
