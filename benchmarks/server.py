"""A real nginx on a free port of the loopback: it serves a folder at once, late, slowly, wrongly, or encrypted."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.workloads import DISTANT, FAULTY, LATE, PACED, PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 2
START_SECONDS = 5.0
STATUS = "/_benchmark_status"
LATE_SECONDS = 0.05
PACE_BYTES = 20_000_000
#: <asm-generic/socket.h>; the socket module has no name for it.
SO_MAX_PACING_RATE = 47
ECHO_MODULE = "ngx_http_echo_module.so"
#: From the server to whoever asks, and back.
DISTANCE_SECONDS = 0.08
PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")
BREAKER, DELAYER = os.path.join(PROGRAMS, "break_answers.py"), os.path.join(PROGRAMS, "delay_bytes.py")

CONFIG = """\
{module}
{user}
worker_processes {workers};
worker_rlimit_nofile 8192;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    default_type application/octet-stream;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {http}
    server {{
        listen 127.0.0.1:{port} {listen};
        root {root};
        location = {status} {{ stub_status; }}
        {locations}
    }}
}}
"""
LATE_LOCATIONS = """
        location / {{ echo_sleep {seconds}; echo_exec /_plain$uri; }}
        location /_plain/ {{ internal; alias {root}/; }}
"""
# A fault is drawn for each answer. Only the broken ones are made elsewhere, so that nginx stays what is measured.
FAULTY_HTTP = """
    split_clients $request_id $fault { 2% refuse; 1% cut; 1% stall; * ""; }
"""
FAULTY_LOCATIONS = """
        error_page 418 = @broken;
        location / {{
            if ($fault = refuse) {{ return 503; }}
            if ($fault) {{ return 418; }}
        }}
        location @broken {{
            proxy_pass http://127.0.0.1:{port};
            proxy_http_version 1.1;
            proxy_set_header X-Fault $fault;
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
"""
TLS_HTTP = """
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.key;
    ssl_session_cache shared:all:10m;
"""
#: Answers with the name that was asked for: so many files without one on the disk.
NAMES_LOCATIONS = "location /named/ { return 200 $uri; }"


class ServerFailed(Exception):
    """No nginx, or one that does not start or lacks what a workload needs."""


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
    """Where it is, and the certificate to trust where it is encrypted."""

    port: int
    authority: str | None = None

    @property
    def base(self) -> str:
        """The URL of its root, without the last slash."""
        return f"http{'s' if self.authority else ''}://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What tells tools in general to trust its certificate."""
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        return dict.fromkeys(names, self.authority) if self.authority else {}

    def counts(self) -> Counts:
        """Ask nginx what it has answered so far."""
        trusting = ssl.create_default_context(cafile=self.authority)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)
        )
        with opener.open(self.base + STATUS, timeout=5) as answer:
            accepted, _, requests = re.findall(r"\d+", answer.read().decode().splitlines()[2])
        return Counts(int(accepted), int(requests))


def find_nginx() -> str | None:
    """Return where nginx is; it often lies where only root looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def find_echo_module() -> str | None:
    """Return where nginx' echo module is, None where it is not installed."""
    nginx = find_nginx()
    if nginx is None:
        return None
    said = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"--modules-path=(\S+)", said)
    path = os.path.join(found.group(1) if found else "/usr/lib/nginx/modules", ECHO_MODULE)
    return path if os.path.exists(path) else None


def missing_for(serving: str = PLAIN, *, tls: bool = False) -> str | None:
    """Return what a way of serving needs and this machine lacks."""
    if find_nginx() is None:
        return "nginx"
    if serving == LATE and find_echo_module() is None:
        return "nginx' echo module (Debian: libnginx-mod-http-echo)"
    if serving == PACED and sys.platform != "linux":
        return "Linux, whose sockets can be paced"
    return "openssl" if tls and shutil.which("openssl") is None else None


@contextlib.contextmanager
def serve(root: str, folder: str, serving: str = PLAIN, *, tls: bool = False, locations: str = "") -> Iterator[Server]:
    """Serve `root` while the block runs.

    Parameters
    ----------
    root : str
        What is served.
    folder : str
        An existing folder for nginx' own files.
    serving : str
        How it answers: one of the ways that the workloads name.
    tls : bool
        Whether it is encrypted, with a certificate that signs itself.
    locations : str
        Further locations of the server.

    Raises
    ------
    ServerFailed
        Where something is missing or nginx does not start.
    """
    if lacking := missing_for(serving, tls=tls):
        raise ServerFailed(f"missing: {lacking}; install it with the system's package manager")
    with contextlib.ExitStack() as stack:
        # The socket is ours: nginx inherits it, and the connections it accepts inherit the pace. nginx takes it as it
        # is: where it blocked, of two workers that wake for one connection the second would hang in accept.
        listener = stack.enter_context(socket.socket())
        listener.settimeout(0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        if serving == PACED:
            listener.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, PACE_BYTES)
        listener.listen(4096)
        parts = _parts(stack, serving, root)
        if tls:
            _make_certificate(folder)
            parts["http"], parts["listen"] = TLS_HTTP.format(folder=folder), "ssl"
        parts["locations"] += locations
        _write_config(parts, root, folder, listener.getsockname()[1])
        process = _start(folder, listener)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        port = listener.getsockname()[1]
        if serving == DISTANT:
            port = _start_beside(stack, DELAYER, str(port), str(DISTANCE_SECONDS / 2))
        server = Server(port, f"{folder}/server.pem" if tls else None)
        _wait_until_it_answers(process, server, folder)
        yield server


def _parts(stack: contextlib.ExitStack, serving: str, root: str) -> dict[str, str]:
    """Return what a way of serving adds to the configuration."""
    parts = {"module": "", "http": "", "locations": "", "listen": ""}
    if serving == LATE:
        parts["module"] = f"load_module {find_echo_module()};"
        parts["locations"] = LATE_LOCATIONS.format(root=root, seconds=LATE_SECONDS)
    if serving == FAULTY:
        parts["http"] = FAULTY_HTTP
        parts["locations"] = FAULTY_LOCATIONS.format(port=_start_beside(stack, BREAKER, root))
    return parts


def _start_beside(stack: contextlib.ExitStack, program: str, *words: str) -> int:
    """Start a server of our own, before or behind nginx, and return the port that it says."""
    process = subprocess.Popen([sys.executable, "-P", program, *words], stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    assert process.stdout is not None
    said = stack.enter_context(process.stdout).readline()
    if not said.strip().isdigit():
        raise ServerFailed(f"{os.path.basename(program)} did not start")
    return int(said)


def _make_certificate(folder: str) -> None:
    """Make a certificate that signs itself."""
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", f"{folder}/server.key", "-out", f"{folder}/server.pem"]
    done = subprocess.run(["openssl", *words, *names, *files], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerFailed(f"openssl made no certificate: {done.stderr.strip()[-300:]}")


def _write_config(parts: dict[str, str], root: str, folder: str, port: int) -> None:
    user = ""
    if os.geteuid() == 0:  # its workers would run as somebody who may not read a private folder
        user = f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(os.getegid()).gr_name};"
    places = {"user": user, "workers": WORKERS, "folder": folder, "port": port, "root": root, "status": STATUS}
    with open(f"{folder}/nginx.conf", "w") as file:
        file.write(CONFIG.format(**places, **parts))


def _start(folder: str, listener: socket.socket) -> subprocess.Popen[bytes]:
    command = [str(find_nginx()), "-e", f"{folder}/error.log", "-p", folder, "-c", f"{folder}/nginx.conf"]
    inherits = {**os.environ, "NGINX": f"{listener.fileno()};"}
    return subprocess.Popen(command, env=inherits, pass_fds=[listener.fileno()])


def _wait_until_it_answers(process: subprocess.Popen[bytes], server: Server, folder: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):  # the socket listens before nginx does: only an answer tells
            server.counts()
            return
        time.sleep(0.02)
    with contextlib.suppress(OSError), open(f"{folder}/error.log") as log:
        raise ServerFailed(f"nginx did not start: {log.read().strip()[-500:]}")
    raise ServerFailed("nginx did not start and left no log")
