"""A real nginx on a loopback port, for as long as a test runs."""

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.servers import free_port, wait_until_open

WORKERS = 2
CONFIG = """
daemon off;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 4096; }}
http {{
    log_format told '$status $body_bytes_sent $msec $request_time $server_port "$http_range" "$request_uri"';
    access_log {folder}/access.log told;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    keepalive_requests 100000;
    {http}
    server {{
        listen 127.0.0.1:{port};
        root {root};
        {server}
    }}
}}
"""
LINE = re.compile(r'(\d+) (\d+) ([\d.]+) ([\d.]+) (\d+) "(.*?)" "(.*)"')


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of the access log: an answer that nginx has ended, at these times of its clock."""

    status: int
    sent: int
    begun: float
    ended: float
    port: int
    wanted: str
    target: str


class Nginx:
    """Serves a folder; `requests` counts what it was asked."""

    def __init__(self, root: Path, folder: Path, *, server: str = "", http: str = "") -> None:
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        self.port = free_port()
        self._root, self._folder = root, folder
        self.start(server=server, http=http)

    def start(self, *, server: str = "", http: str = "") -> None:
        """Start it, again on the same port where it was stopped, with these directives."""
        config = self._folder / "nginx.conf"
        where = {"folder": self._folder, "root": self._root, "port": self.port, "workers": WORKERS}
        config.write_text(CONFIG.format(**where, server=server, http=http))
        user = ["-g", "user root;"] if os.geteuid() == 0 else []
        command = ["nginx", "-c", str(config), "-p", str(self._folder), *user]
        with (self._folder / "said").open("wb") as said:
            self._process = subprocess.Popen(command, stderr=said)
        wait_until_open(self._process, self.port, self._folder / "said")

    @property
    def host(self) -> str:
        """Return host:port."""
        return f"127.0.0.1:{self.port}"

    def requests(self) -> int:
        """Return how many requests were answered; a worker writes its line when the answer is sent."""
        return len((self._folder / "access.log").read_bytes().splitlines())

    def answers(self) -> list[Answer]:
        """Return all answers that were ended, in this order; those that a stop cut short are not told."""
        found = [LINE.fullmatch(line) for line in (self._folder / "access.log").read_text().splitlines()]
        return [
            Answer(int(one[1]), int(one[2]), float(one[3]) - float(one[4]), float(one[3]), int(one[5]), one[6], one[7])
            for one in found
            if one is not None
        ]

    def errors(self) -> list[str]:
        """Return the lines of the error log."""
        return (self._folder / "error.log").read_text().splitlines()

    def signal_workers(self, number: signal.Signals) -> None:
        """Send a signal to the processes that serve, and not to their master."""
        deadline = time.monotonic() + 10
        while len(workers := self._workers()) < WORKERS and time.monotonic() < deadline:
            time.sleep(0.001)  # the port is open before all of them are there
        for worker in workers:
            os.kill(worker, number)

    def _workers(self) -> list[int]:
        master = self._process.pid
        return [int(child) for child in Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    def stop(self) -> None:
        """End it, with everything it is sending (`nginx -s stop`)."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
