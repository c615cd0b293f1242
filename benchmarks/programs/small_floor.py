"""Ask for small files, digest, write and rename them in one bare thread: ``small_floor.py PREFIX COUNT BYTES DIR``.

The floor of small files: no plan, no retries, no records. Files are named by their number behind the prefix, as
``http://127.0.0.1:8080/7``, have the same length, and come in one piece each, or it stops.
"""

import hashlib
import os
import select
import socket
import sys
import time
from urllib.parse import urlsplit

CONNECTIONS, ROOM = 16, 1 << 17


def main() -> None:
    prefix, count, size, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    parts, numbers = urlsplit(prefix), iter(range(count))
    os.makedirs(f"{folder}/parts")
    began, used = time.perf_counter(), time.process_time()
    poll, room = select.epoll(), memoryview(bytearray(ROOM))
    under_way: dict[int, tuple[socket.socket, int]] = {}

    def ask(end: socket.socket) -> None:
        number = next(numbers, None)
        if number is None:
            poll.unregister(end)
            del under_way[end.fileno()]
        else:
            end.send(f"GET {parts.path}{number} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            under_way[end.fileno()] = end, number

    for _ in range(CONNECTIONS):
        end = socket.create_connection((parts.hostname or "", parts.port or 80))
        poll.register(end, select.EPOLLIN)
        ask(end)
    while under_way:
        for handle, _ in poll.poll():
            end, number = under_way[handle]
            received = end.recv_into(room)
            start = bytes(room[:4096]).find(b"\r\n\r\n") + 4
            if received - start != size:
                raise EOFError(f"{prefix}{number}: expected {size:,} bytes in one piece, got {received - start:,}")
            ask(end)
            hashlib.md5(room[start:received]).hexdigest()
            part = os.open(f"{folder}/parts/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(part, room[start:received])
            os.close(part)
            os.rename(f"{folder}/parts/{number}", f"{folder}/{number}")
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    print(f"{wall / count * 1e6:.1f} us a file, CPU {cpu / count * 1e6:.1f}, without start-up")


if __name__ == "__main__":
    main()
