"""What starting a real server on a loopback port takes."""

import socket
import subprocess
import time


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_open(process: subprocess.Popen, port: int) -> None:
    """Return when a server accepts connections; raise with its words where it ended instead."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    process.kill()
    raise RuntimeError(f"{process.args[0]} did not start: {process.stderr.read().decode()}")
