"""A real nginx on a free port of the loopback, serving one folder."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 2
START_SECONDS = 5.0
STATUS = "/_benchmark_status"

CONFIG = """\
{user}
worker_processes {workers};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location = {status} {{ stub_status; }}
        location / {{
            {location}
        }}
    }}
}}
"""


class ServerFailed(Exception):
    """No nginx, or one that does not start."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Connections accepted and requests answered since the start."""

    connections: int
    requests: int

    def __sub__(self, earlier: Counts) -> Counts:
        """Return what came between; the later question itself, one connection and one request, is taken off."""
        return Counts(self.connections - earlier.connections - 1, self.requests - earlier.requests - 1)


@dataclass(frozen=True, slots=True)
class Server:
    """Where it is."""

    port: int

    def url(self, name: str) -> str:
        """Return the URL of a file below its root."""
        return f"http://127.0.0.1:{self.port}/{name}"

    def counts(self) -> Counts:
        """Ask nginx what it has answered so far."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url(STATUS[1:]), timeout=5) as answer:
            accepted, _, requests = re.findall(r"\d+", answer.read().decode().splitlines()[2])
        return Counts(int(accepted), int(requests))


def find_nginx() -> str | None:
    """Return where nginx is; it often lies where only root looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def serve(root: str, folder: str, location: str = "") -> Iterator[Server]:
    """Serve `root` while the block runs.

    Parameters
    ----------
    root : str
        What is served.
    folder : str
        An existing folder for nginx' own files.
    location : str
        More directives for every file, such as a pace (``limit_rate 20m;``).

    Raises
    ------
    ServerFailed
        Where nginx is missing or does not start.
    """
    nginx = find_nginx()
    if nginx is None:
        raise ServerFailed("nginx is missing: install it with the system's package manager")
    port = _free_port()
    config = os.path.join(folder, "nginx.conf")
    with open(config, "w") as file:
        file.write(_config(root, folder, port, location))
    process = subprocess.Popen([nginx, "-e", f"{folder}/error.log", "-p", folder, "-c", config])
    try:
        _wait_until_it_answers(process, port, folder)
        yield Server(port)
    finally:
        process.terminate()
        process.wait()


def _config(root: str, folder: str, port: int, location: str) -> str:
    user = ""
    if os.geteuid() == 0:  # its workers would run as somebody who may not read a private folder
        user = f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(os.getegid()).gr_name};"
    return CONFIG.format(
        user=user, workers=WORKERS, folder=folder, port=port, root=root, status=STATUS, location=location
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, folder: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    with contextlib.suppress(OSError), open(f"{folder}/error.log") as log:
        raise ServerFailed(f"nginx did not start: {log.read().strip()[-500:]}")
    raise ServerFailed("nginx did not start and left no log")
