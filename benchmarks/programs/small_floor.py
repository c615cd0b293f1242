"""Ask for small files, digest, write and rename them in one bare thread: ``small_floor.py PREFIX COUNT BYTES DIR``.

The floor of small files: no plan, no retries, no records. Files are named by their number behind the prefix, as
``http://127.0.0.1:8080/7``, and all have the same length.
"""

import hashlib
import os
import select
import socket
import sys
import time
from urllib.parse import urlsplit

CONNECTIONS, ROOM = 16, 1 << 17


def receive(end: socket.socket, room: memoryview, size: int) -> tuple[memoryview, bool]:
    """Return a body, and whether the connection stays; what has not come yet is waited for."""
    received, head = 0, -1
    while head < 0 or received < head + 4 + size:
        count = end.recv_into(room[received:])
        if not count:
            raise EOFError(f"expected {size:,} bytes behind a head, got {received:,} with it")
        received += count
        head = bytes(room[: min(received, 4096)]).find(b"\r\n\r\n")
    return room[head + 4 : received], b"Connection: close" not in bytes(room[:head])


def save(body: memoryview, folder: str, number: int) -> None:
    hashlib.md5(body).hexdigest()
    part = os.open(f"{folder}/parts/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(part, body)
    os.close(part)
    os.rename(f"{folder}/parts/{number}", f"{folder}/{number}")


def main() -> None:
    prefix, count, size, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    parts, numbers = urlsplit(prefix), iter(range(count))
    os.makedirs(f"{folder}/parts")
    began, used = time.perf_counter(), time.process_time()
    poll, room = select.epoll(), memoryview(bytearray(ROOM))
    under_way: dict[int, tuple[socket.socket, int]] = {}

    def connect() -> socket.socket:
        end = socket.create_connection((parts.hostname or "", parts.port or 80))
        poll.register(end, select.EPOLLIN)
        return end

    def ask(end: socket.socket) -> None:
        number = next(numbers, None)
        if number is None:
            poll.unregister(end)
        else:
            end.send(f"GET {parts.path}{number} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            under_way[end.fileno()] = end, number

    for _ in range(CONNECTIONS):
        ask(connect())
    while under_way:
        for handle, _ in poll.poll():
            end, number = under_way.pop(handle)
            body, stays = receive(end, room, size)
            if not stays:
                end.close()
                end = connect()
            ask(end)
            save(body, folder, number)
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    print(f"{wall / count * 1e6:.1f} us a file, CPU {cpu / count * 1e6:.1f}, without start-up")


if __name__ == "__main__":
    main()
