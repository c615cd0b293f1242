"""A real nginx on a loopback port, for as long as a test runs."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

CONFIG = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {folder}/access.log;
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


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Nginx:
    """Serves a folder; `requests` counts what it was asked."""

    def __init__(self, root: Path, folder: Path, *, server: str = "", http: str = "") -> None:
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        self.port = free_port()
        self._log = folder / "access.log"
        config = folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, root=root, port=self.port, server=server, http=http))
        user = ["-g", "user root;"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(["nginx", "-c", str(config), "-p", str(folder), *user], stderr=subprocess.PIPE)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise RuntimeError(f"nginx did not start: {self._process.stderr.read().decode()}")

    @property
    def host(self) -> str:
        """Return host:port."""
        return f"127.0.0.1:{self.port}"

    def requests(self) -> int:
        """Return how many requests were answered; a worker writes its line when the answer is sent."""
        return len(self._log.read_bytes().splitlines())

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
        self._process.stderr.close()
