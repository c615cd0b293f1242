"""Receive, digest and write files in bare threads and print what it took: ``receive_floor.py PREFIX COUNT BYTES DIR``.

The floor of large files: no retries, no checks, no records. Files are named by their number behind the prefix, as
``http://127.0.0.1:8080/7``, and all have the same length.
"""

import hashlib
import http.client
import os
import resource
import sys
import threading
import time
from urllib.parse import urlsplit

THREADS, PIECE = 4, 1 << 18


def receive(prefix: str, size: int, folder: str, numbers: list[int]) -> None:
    parts = urlsplit(prefix)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    room = memoryview(bytearray(PIECE))
    while numbers:
        number = numbers.pop()
        connection.request("GET", f"{parts.path}{number}")
        answer = connection.getresponse()
        digest, left = hashlib.md5(), size
        with open(os.path.join(folder, str(number)), "wb", buffering=0) as file:
            while left and (count := answer.readinto(room[: min(left, PIECE)])):
                digest.update(room[:count])
                file.write(room[:count])
                left -= count
        if left:
            raise EOFError(f"{prefix}{number}: {left:,} bytes are missing")
        answer.read()


def main() -> None:
    prefix, count, size, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    os.makedirs(folder)
    numbers, began = list(range(count)), time.perf_counter()
    threads = [threading.Thread(target=receive, args=(prefix, size, folder, numbers)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"wall {time.perf_counter() - began:.2f} s, CPU {used.ru_utime + used.ru_stime:.2f} s, of it start-up too")


if __name__ == "__main__":
    main()
