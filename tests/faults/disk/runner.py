"""Runs the command line in forks of a process that has imported everything, between shim and disk.

One JSON object a line comes in, one goes out: what to run, what is to happen to it, and what came of it.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time

import framefetch.engine.local
import framefetch.sources.http
import framefetch.table.text
import framefetch.works  # noqa: F401 - forks find it imported
from framefetch.store import partpaths, writer
from framefetch.ui import cli

#: Seconds after which a run that should have ended has hung.
PATIENCE = 20.0
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class Report(ctypes.Structure):
    """What the shim tells of the child."""

    _fields_ = (
        ("calls", ctypes.c_long),
        ("struck", ctypes.c_long),
        ("call", ctypes.c_char * 16),
        ("path", ctypes.c_char * 480),
    )


def child(shim: ctypes.CDLL, order: dict) -> None:
    """Run the command line as the order says; does not return."""
    try:
        out = os.open(order["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if order.get("files"):
            resource.setrlimit(resource.RLIMIT_NOFILE, tuple(order["files"]))
        if "sync" in order:
            writer.SYNC_SECONDS = writer.WINDOW_SECONDS = order["sync"]
        if order.get("far"):
            partpaths.PATIENCE, partpaths.ENOUGH = 0.0, 0  # any disk is, after the first small file
        sys.argv = ["framefetch", *order["words"]]
        if order.get("arm"):
            root, kinds, first, last, mode, number, log = order["arm"]
            shim.disk_arm(root.encode(), kinds, first, last, mode, number, log and log.encode())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # what the interpreter does at its end
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    sys.exit(code)  # as any process ends: its threads are waited for


def wait(pid: int, seconds: float) -> int | None:
    """Return how a child ended, None where it did not within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def obey(shim: ctypes.CDLL, order: dict) -> dict:
    """Run one order; with `seconds`, send it a signal after so many."""
    ctypes.memset(shim.disk_report(), 0, ctypes.sizeof(Report))
    # A child forgets what it was sent before it had come out of the fork.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pid = os.fork()
    if not pid:
        child(shim, order)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    code = wait(pid, order.get("seconds", PATIENCE))
    took = None
    if code is None and "seconds" in order:
        began = time.monotonic()
        os.kill(pid, order.get("signal", signal.SIGKILL))
        code = wait(pid, PATIENCE)
        took = time.monotonic() - began
    hung = code is None
    if hung:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    found = Report.from_address(shim.disk_report())
    return {
        "code": code,
        "hung": hung,
        "took": took,
        "calls": found.calls,
        "struck": found.struck,
        "call": found.call.decode(),
        "path": found.path.decode(),
    }


def main() -> None:
    """Obey until nobody asks any more."""
    shim = ctypes.CDLL(None)
    shim.disk_report.restype = ctypes.c_void_p
    shim.disk_arm.argtypes = (
        ctypes.c_char_p, ctypes.c_uint, ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_char_p,
    )  # fmt: skip
    for line in sys.stdin:
        print(json.dumps(obey(shim, json.loads(line))), flush=True)


main()
