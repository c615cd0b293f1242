"""Start one command, wait for it and write down what it used.

A program of its own, kept tiny, because Linux counts the memory of whoever starts a process into that process' peak:
started from here nothing reads higher than a bare interpreter (about 10 MiB), whatever the benchmark itself holds.
"""

import os
import sys
import time


def main() -> None:
    record, command = sys.argv[1], sys.argv[2:]
    started = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    code = os.waitstatus_to_exitcode(status)
    with open(record, "w") as file:
        file.write(f"{code} {wall} {usage.ru_utime + usage.ru_stime} {peak}")


main()
