"""Servers that nobody here wrote, each in its own language, on loopback ports for as long as a test runs."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CADDYFILE = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    bind 127.0.0.1
    root * "{root}"
    file_server
    log {{
        output file "{log}"
    }}
}}
"""
WEBRICK = """
require "webrick"
port, root, log = ARGV
out = File.open(log, "a").tap { |file| file.sync = true }
server = WEBrick::HTTPServer.new(
  BindAddress: "127.0.0.1", Port: port.to_i, DocumentRoot: root,
  AccessLog: [[out, "%s"]], Logger: WEBrick::Log.new(File::NULL)
)
trap("TERM") { server.shutdown }
server.start
"""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_open(process: subprocess.Popen, port: int, said: Path) -> None:
    """Return when a server accepts connections; raise with its words where it ended instead."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    process.kill()
    process.wait()
    raise RuntimeError(f"{process.args[0]} did not start: {said.read_text()}")


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves a folder and writes a line for each answer."""

    process: subprocess.Popen
    host: str
    log: Path
    status_of: Callable[[str], int]

    def statuses(self) -> list[int]:
        """Return the status of each answer that was ended, in this order."""
        return [self.status_of(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


def caddy(root: Path, folder: Path) -> Server:
    """Start Caddy's file server, in Go."""
    port, log, config = free_port(), folder / "caddy.log", folder / "Caddyfile"
    config.write_text(CADDYFILE.format(port=port, root=root, log=log))
    words = ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]
    return _started(words, port, log, lambda line: json.loads(line)["status"])


def webrick(root: Path, folder: Path) -> Server:
    """Start WEBrick, in Ruby."""
    port, log = free_port(), folder / "webrick.log"
    return _started(["ruby", "-e", WEBRICK, str(port), str(root), str(log)], port, log, int)


def _started(words: list[str], port: int, log: Path, status_of: Callable[[str], int]) -> Server:
    said = log.with_suffix(".said")
    home = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(log.parent))
    with said.open("wb") as errors:
        process = subprocess.Popen(words, env=os.environ | home, stdout=errors, stderr=errors)
    wait_until_open(process, port, said)
    return Server(process, f"127.0.0.1:{port}", log, status_of)
