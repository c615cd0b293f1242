"""Meet every fault of the network that a limit must end, all at once, and print, as JSON, when each ended.

``end_in_time.py ROWS DIR``: so many rows meet each fault; one attempt each.
"""

import contextlib
import json
import os
import socket
import sys
import threading
from dataclasses import dataclass
from typing import Any

import pandas as pd

from framefetch import Limits, MetadataCache, Options, RetryPolicy, Timeouts
from framefetch.warehouse import CONTINUE, Pace, Raw, Reply, Serve, Stop, WarehouseThread

CONNECT, STALL, WINDOW = 1.5, 2.0, 2.5
TIMEOUTS = Timeouts(connect=CONNECT, stall=STALL, speed_window=WINDOW)
BODY = bytes(200_000)
FORBIDDEN = Reply(403, b"<Error>" * 1000, stop=Stop(100, "hang"))


@dataclass(frozen=True)
class Fault:
    """A fault, the limit that must end it, and as what."""

    case: str
    says: str
    limit: float
    error: str
    answer: Any = None


SERVED = [
    Fault("69", "accepts, reads, never answers", STALL, "Stalled", Serve(stop=Stop(0, "hang", of="wire"))),
    Fault("69", "stops within the head", STALL, "Stalled", Serve(stop=Stop(30, "hang", of="wire"))),
    Fault("70", "stops within the body", STALL, "Stalled", Serve(stop=Stop(90_000, "hang"))),
    Fault("71", "drips the body", WINDOW, "TooSlow", Serve(pace=Pace(1, 0.02))),
    Fault("71", "drips the head", STALL, "Stalled", Serve(head_pace=Pace(1, 0.05))),
    Fault("71", "100 Continue for ever", STALL, "Stalled", Raw(CONTINUE, repeat=None, pace=Pace(25, 0.01))),
    Fault("52", "stops within the text of a refusal", STALL, "StatusError", FORBIDDEN),
]
SILENT_TCP = Fault("69", "accepts, never reads", STALL, "Stalled")
SILENT_TLS = Fault("69", "accepts, never shakes hands (TLS)", CONNECT, "ConnectFailed")
SWALLOWED = Fault("73", "SYN unanswered", CONNECT, "ConnectFailed")
REFUSED = Fault("75", "refused port", CONNECT, "ConnectFailed")
RESOLVER = Fault("76", "resolver hangs", CONNECT, "NameNotResolved")
PROXY = Fault("81", "proxy never answers", STALL, "Stalled")
TUNNEL = Fault("81", "proxy never makes the tunnel", max(CONNECT, STALL), "ConnectFailed")


def main() -> None:
    rows, folder = int(sys.argv[1]), sys.argv[2]
    with contextlib.ExitStack() as stack:
        urls = [(fault, _served(stack, fault)) for fault in SERVED] + _others(stack)
        table = pd.DataFrame(
            [(f"{url}/{number}-{at}.bin?q=1", number) for number, (_, url) in enumerate(urls) for at in range(rows)],
            columns=["url", "fault"],
        )
        # More than there are rows: what fails while a host has all it may have is excused once, and asked for again.
        limits = Limits(connections=rows * len(urls), per_host=2 * rows)
        options = Options(limits=limits, retry=RetryPolicy(attempts=1), timeouts=TIMEOUTS)
        with MetadataCache(table, folder, options=options) as cache:
            frame = cache.mirror(table).frame
    found = []
    for number, (fault, _) in enumerate(urls):
        mine = frame[table["fault"] == number]
        ended = sorted({str(kind) for kind in mine["error_type"]})
        found.append({"case": fault.case, "says": fault.says, "limit": fault.limit, "expected": fault.error})
        found[-1] |= {"ended": ended, "took": float(mine["seconds"].max())}
    print(json.dumps(found))


def _served(stack: contextlib.ExitStack, fault: Fault) -> str:
    warehouse = stack.enter_context(WarehouseThread())
    answer = fault.answer
    if isinstance(answer, Serve):
        warehouse.script_all(Serve(content=BODY, stop=answer.stop, pace=answer.pace, head_pace=answer.head_pace))
    else:
        warehouse.script_all(answer)
    return warehouse.base_url


def _others(stack: contextlib.ExitStack) -> list[tuple[Fault, str]]:
    """Return faults that are no answers, and where they are."""
    silent = _listen(stack, 4096)
    proxy = _listen(stack, 4096)
    # A queue that is full: the kernel drops whatever asks for a connection.
    swallowing = _listen(stack, 0)
    for _ in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.settimeout(0)
        waiting.connect_ex(("127.0.0.1", swallowing))
    answered = threading.Event()
    stack.callback(answered.set)
    ask = socket.getaddrinfo

    def hangs(host: Any, *words: Any, **more: Any) -> Any:
        if host == "silent.example":
            answered.wait()
        return ask(host, *words, **more)

    socket.getaddrinfo = hangs
    os.environ["http_proxy"] = os.environ["https_proxy"] = f"http://127.0.0.1:{proxy}"
    os.environ["no_proxy"] = "127.0.0.1,silent.example"
    return [
        (SILENT_TCP, f"http://127.0.0.1:{silent}"),
        (SILENT_TLS, f"https://127.0.0.1:{silent}"),
        (SWALLOWED, f"http://127.0.0.1:{swallowing}"),
        (REFUSED, "http://127.0.0.1:1"),
        (RESOLVER, "http://silent.example"),
        (PROXY, "http://behind.example"),
        (TUNNEL, "https://behind.example"),
    ]


def _listen(stack: contextlib.ExitStack, backlog: int) -> int:
    """Listen and never accept: the kernel does, as far as its queue goes."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(backlog)
    return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
