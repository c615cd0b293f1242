"""What is shown of runs: one display for all that overlap, and a terminal that is as it was in the end."""

import asyncio
import io
import os
import pickle
import pty
import subprocess
import sys
import threading
from dataclasses import replace

import pandas as pd
import pytest

from framefetch import Options, Progress, Timeouts
from framefetch.events import BytesReceived, FileFinished, RunFinished, RunStarted
from framefetch.models import Outcome, Request, Status
from framefetch.warehouse import Serve, Stop
from tests.conftest import EAGER

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
FINISHED = Outcome(Request(0, "v0", "k", ("k",), "v0/k"), Status.DOWNLOADED)


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")


def started(run: int, files: int, expected: int | None = None) -> RunStarted:
    return RunStarted(files, files, 0, files, expected, run)


def test_runs_that_overlap_share_one_display_that_ends_with_the_last() -> None:
    screen = Screen()
    progress = Progress(screen)
    for event in (started(1, 3), FileFinished(FINISHED, 1), started(2, 4), RunFinished(0.1, 1)):
        progress(event)
    assert (screen.getvalue().count(HIDE), screen.getvalue().count(SHOW)) == (1, 0)
    progress(RunFinished(0.1, 3))  # which ended before it was announced
    assert screen.getvalue().count(SHOW) == 0
    progress(FileFinished(FINISHED, 2))
    progress(RunFinished(0.1, 2))
    assert (screen.getvalue().count(HIDE), screen.getvalue().count(SHOW)) == (1, 1)
    assert "2/7" in screen.getvalue()
    progress(started(4, 5))
    progress(RunFinished(0.1, 4))
    assert (screen.getvalue().count(HIDE), screen.getvalue().count(SHOW)) == (2, 2)
    assert "0/5" in screen.getvalue().rpartition(HIDE)[2], "counted anew"


def test_a_display_comes_with_the_first_run_that_has_something_to_fetch() -> None:
    screen = Screen()
    progress = Progress(screen)
    progress(started(1, 0))
    assert screen.getvalue() == ""
    progress(started(2, 2))
    progress(RunFinished(0.1, 2))
    assert (screen.getvalue().count(HIDE), screen.getvalue().count(SHOW)) == (1, 0)
    progress(RunFinished(0.1, 1))
    assert screen.getvalue().count(SHOW) == 1


def test_lines_tell_the_sum_of_what_overlaps(monkeypatch) -> None:
    monkeypatch.setattr("framefetch.ui.progress.LINE_SECONDS", 0.0)
    lines = io.StringIO()
    progress = Progress(lines)
    for event in (started(1, 3, 9000), started(2, 4, 1000), BytesReceived(2000, 2, 1), BytesReceived(300, 1, 2)):
        progress(event)
    progress(BytesReceived(2500, 3, 1))
    assert "framefetch: 0 of 7 files, 2.8 kB of 10.0 kB, " in lines.getvalue().splitlines()[-1]


async def test_calls_that_overlap_are_runs_of_their_own(stocked, open_cache) -> None:
    _, table, _ = stocked
    screen, events = Screen(), []
    cache = open_cache(table, options=Options(observers=(Progress(screen), events.append)))
    await asyncio.gather(cache.fetch_all(table.head(4)), cache.fetch_all(table.tail(4)))
    runs = {event.run for event in events}
    assert len(runs) == 2
    for kind, times in ((RunStarted, 1), (FileFinished, 4), (RunFinished, 1)):
        assert {run: sum(isinstance(event, kind) and event.run == run for event in events) for run in runs} == (
            dict.fromkeys(runs, times)
        )
    assert screen.getvalue().count(HIDE) == screen.getvalue().count(SHOW) > 0


@pytest.mark.parametrize(
    ("files", "size", "half"), [(1, 300_000, 150_000), (6, 300_000, 150_001), (3, 5 << 20, (2 << 20) + 99)]
)
@pytest.mark.parametrize("warm", [False, True])
async def test_bytes_are_told_when_they_come_and_not_when_a_file_is_whole(
    warehouse, open_cache, files, size, half, warm
) -> None:
    """Else a slow line looks like one that has died."""
    bodies = {warehouse.add(f"/{at}.bin", bytes([at]) * size): at for at in range(files)}
    for name in bodies.values():
        warehouse.script(f"/{name}.bin", Serve(stop=Stop(half, "hold")))
    first = [warehouse.add(f"/warm{at}.bin", b"warm") for at in range(files)] if warm else []
    told, enough = [0], threading.Event()

    def observe(event: object) -> None:
        if isinstance(event, BytesReceived):
            told.append(event.total)
            if event.total == 4 * len(first) + files * half:
                enough.set()

    table = pd.DataFrame({"url": [*first, *bodies]})
    cache = open_cache(table, options=replace(EAGER, timeouts=Timeouts(), observers=(observe,)))
    call = asyncio.create_task(cache.fetch_all(table))
    assert await asyncio.to_thread(enough.wait, 10), f"told of {told[-1]:,}"
    warehouse.release()
    result = await call
    assert result.ok.all()
    assert told == sorted(told)
    assert result.summary()["bytes"] == 4 * len(first) + files * size


def shown(code: str) -> str:
    """Return what a process that ends in the middle of a run has written to its terminal."""
    ours, theirs = pty.openpty()
    code = f"from framefetch.events import RunStarted\nfrom framefetch import Progress\n{code}"
    subprocess.run([sys.executable, "-c", code], stderr=theirs, timeout=30, check=False)
    os.close(theirs)
    text = os.read(ours, 1 << 16).decode()
    os.close(ours)
    return text


TWO_INTERRUPTS = """
import os, signal
from framefetch.ui.cli import _Signals
with _Signals():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("end", ["", "raise SystemExit(1)", "1 / 0", TWO_INTERRUPTS], ids=range(4))
def test_the_cursor_comes_back_when_a_process_ends_in_the_middle(end: str) -> None:
    text = shown(f"Progress()(RunStarted(3, 3, 0, 3, None))\n{end}")
    assert text.count(HIDE) == text.count(SHOW) == 1


def test_options_that_show_progress_can_be_pickled() -> None:
    """A copy begins anew; where no stream was given, on the error output of its own process."""
    options = Options(observers=(Progress(), Progress(io.StringIO("so far"))))
    plain, given = pickle.loads(pickle.dumps(options)).observers
    assert plain._stream is sys.stderr
    assert given._stream.getvalue() == "so far"
    given(RunStarted(2, 2, 0, 2, None))


def test_lines_end_with_one_that_tells_all_and_a_short_run_has_none(monkeypatch) -> None:
    screen = io.StringIO()
    progress = Progress(screen)
    for event in (started(1, 1), BytesReceived(9, 1, 1), FileFinished(FINISHED, 1), RunFinished(0.1, 1)):
        progress(event)
    assert screen.getvalue() == ""
    monkeypatch.setattr("framefetch.ui.progress.LINE_SECONDS", 0.0)
    progress(started(2, 2))
    monkeypatch.setattr("framefetch.ui.progress.LINE_SECONDS", 60.0)
    for event in (FileFinished(FINISHED, 2), FileFinished(FINISHED, 2), BytesReceived(1000, 2, 2)):
        progress(event)
    assert "0 of 2 files" in screen.getvalue().splitlines()[-1]
    progress(RunFinished(0.1, 2))
    assert screen.getvalue().splitlines()[-1].startswith("framefetch: 2 of 2 files, 1.0 kB, ")


async def test_the_last_line_of_a_run_has_all_its_files_and_bytes(stocked, open_cache, monkeypatch) -> None:
    _, table, contents = stocked
    monkeypatch.setattr("framefetch.ui.progress.LINE_SECONDS", 0.0)
    screen = io.StringIO()
    cache = open_cache(table, options=replace(EAGER, observers=(Progress(screen),)))
    assert (await cache.fetch_all(table)).ok.all()
    size = sum(map(len, contents.values()))
    assert f"8 of 8 files, {size / 1000:.1f} kB, " in screen.getvalue().splitlines()[-1]
