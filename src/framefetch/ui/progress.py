"""Progress on the screen: a live display on a terminal, elsewhere a line every few seconds and one at the end.

It only listens. Its output goes to stderr, and an output that fails is given up, never the download.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from framefetch.events import BytesReceived, Event, FileFinished, RunFinished, RunStarted
from framefetch.models import Status

if TYPE_CHECKING:
    from typing import Self

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from framefetch.store.audit import Holdings

__all__ = ["Progress", "Reading", "bytes_text"]

LINE_SECONDS = 5.0


def bytes_text(count: float) -> str:
    """Return a number of bytes for people, in decimal units.

    Examples
    --------
    >>> bytes_text(999), bytes_text(1_234_567)
    ('999 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


class Progress:
    """An observer that shows how a run gets on; runs that overlap are shown as one.

    Parameters
    ----------
    stream : text stream, optional
        Where to write; default is stderr.

    Examples
    --------
    >>> from framefetch import MetadataCache, Options
    >>> cache = MetadataCache("table.csv", options=Options(observers=(Progress(),)))  # doctest: +SKIP
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._given = stream
        self._stream = sys.stderr if stream is None else stream
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._calls = threading.Lock()  # each cache has a thread of its own to call from
        self._begin()

    def __reduce__(self) -> tuple[type[Progress], tuple[TextIO | None]]:
        """Return how another process makes one like this."""
        return type(self), (self._given,)

    def _begin(self) -> None:
        #: By run, of all that are shown together: how it began, and what it has received.
        self._started: dict[int, RunStarted] = {}
        self._received: dict[int, int] = {}
        self._going: set[int] = set()
        self._began = self._last_line = time.monotonic()
        self._said_any = False
        self._done = self._failed = 0

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._calls:
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case RunStarted():
                if not self._going:
                    self._begin()
                self._started[event.run] = event
                self._going.add(event.run)
                self._open()
            case BytesReceived():
                self._received[event.run] = event.total
            case FileFinished():
                self._done += event.outcome.status is Status.DOWNLOADED
                self._failed += event.outcome.status is Status.FAILED
                return
            case RunFinished():
                self._going.discard(event.run)
                if not self._going:
                    if self._said_any:  # the last one told of the middle
                        self._print()
                    self._close()
                return
        self._show()

    @property
    def _to_fetch(self) -> int:
        return sum(started.to_fetch for started in self._started.values())

    def _open(self) -> None:
        if self._bar is not None or not self._to_fetch or not self._stream.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("framefetch"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(file=self._stream),
            transient=True,
        )
        self._task = self._bar.add_task("files", total=self._to_fetch, rate="")
        atexit.register(self._close)  # a process that ends in the middle leaves no hidden cursor
        self._bar.start()

    def _text(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        failed = f", {self._failed:,} failed" if self._failed else ""
        stated = [started.expected_bytes for started in self._started.values()]
        expected = 0 if None in stated else sum(filter(None, stated))
        of = f" of {bytes_text(expected)}" if expected else ""
        received = sum(self._received.values())
        return f"{bytes_text(received)}{of}, {bytes_text(received / seconds)}/s{failed}"

    def _show(self) -> None:
        done, to_fetch = self._done + self._failed, self._to_fetch
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=to_fetch, completed=done, rate=self._text())
        elif to_fetch and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print()

    def _print(self) -> None:
        self._last_line = time.monotonic()
        self._said_any = True
        done = self._done + self._failed
        print(f"framefetch: {done:,} of {self._to_fetch:,} files, {self._text()}", file=self._stream, flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            atexit.unregister(self._close)
            with contextlib.suppress(OSError):
                self._show()
                self._bar.stop()
            self._bar = None


class Reading:
    """Shows how far the reading of a cache's files has come.

    Parameters
    ----------
    holdings : Holdings or None
        How many files and bytes there are; None where that is not known.
    stream : text stream, optional
        Where to write; default is stderr.
    """

    def __init__(self, holdings: Holdings | None, stream: TextIO | None = None) -> None:
        self._holdings = holdings
        self._stream = sys.stderr if stream is None else stream
        self._files = self._bytes = 0
        self._began = self._last_line = time.monotonic()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def advance(self, size: int) -> None:
        """Take a file that was read, of so many bytes."""
        self._files += 1
        self._bytes += size
        seconds = max(time.monotonic() - self._began, 1e-9)
        text = f"{bytes_text(self._bytes)}, {bytes_text(self._bytes / seconds)}/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._bytes, files=f"{self._files:,} files", rate=text)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            of = f" of {self._holdings.files:,}" if self._holdings is not None else ""
            with contextlib.suppress(OSError):
                print(f"framefetch: read {self._files:,}{of} files, {text}", file=self._stream, flush=True)

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("framefetch"),
                BarColumn(),
                TextColumn("{task.fields[files]}"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(file=self._stream),
                transient=True,
            )
            total = None if self._holdings is None else self._holdings.bytes
            self._task = self._bar.add_task("read", total=total, files="", rate="")
            self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Take the display away."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.stop()
