"""Serve the answers that are to be broken, behind nginx: ``break_answers.py ROOT``; prints its port.

Each answer is the right one, as nginx would give it, as far as the middle of its body; then the connection ends
(``X-Fault: cut``) or nothing more comes (``X-Fault: stall``) until whoever asked has gone.
"""

import os
import re
import select
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = 1 << 20


class Breaker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = ""

    def do_GET(self):
        path = os.path.join(self.root, urllib.parse.unquote(self.path).split("?")[0].lstrip("/"))
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            start, end = self._wanted(status.st_size)
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("ETag", f'"{int(status.st_mtime):x}-{status.st_size:x}"')
            self.send_header("Last-Modified", self.date_time_string(int(status.st_mtime)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - start))
            if "Range" in self.headers:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}")
            self.end_headers()
            if self.command == "GET":
                file.seek(start)
                self._send_half(file, (end - start) // 2)
        self.close_connection = True

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *words):
        """Say nothing."""

    def _wanted(self, size):
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found:
            return 0, size
        return int(found.group(1)), min(size, int(found.group(2)) + 1) if found.group(2) else size

    def _send_half(self, file, left):
        while left > 0 and (block := file.read(min(BLOCK, left))):
            self.wfile.write(block)
            left -= len(block)
        if self.headers.get("X-Fault") == "stall":
            select.select([self.connection], [], [])  # readable when nginx has closed it


def main():
    Breaker.root = sys.argv[1]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Breaker)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
