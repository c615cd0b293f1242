"""Faults of large bodies that a thread reads from the socket: cut, reset, silent, followed by more, given up."""

import asyncio
import errno
import hashlib
import os
import random
import select
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from framefetch import Limits, MetadataCache, Timeouts, TransferOptions
from framefetch.errors import DiskFull
from framefetch.sources import connection
from framefetch.sources.buffers import Blocks
from framefetch.sources.tap import Tap
from framefetch.store.digesting import DigestingFile
from framefetch.warehouse import Push, Reply, Serve, Stop, WarehouseThread, hdf5_file, reply_bytes
from tests.conftest import EAGER

pytestmark = pytest.mark.usefixtures("way")

MIB = 1 << 20
BODY = hdf5_file(8 * MIB + 4321, seed=1)
WRONG = hdf5_file(3 * MIB, seed=2)
#: One connection: what is asked for is then certain.
ALONE = replace(EAGER, transfer=TransferOptions(segments=1))

Note = Callable[[str, str, str, int], None]
Open = Callable[..., MetadataCache]


@pytest.fixture
def warehouse(reached: WarehouseThread) -> WarehouseThread:
    """Give a running warehouse, empty, as it is reached each way."""
    return reached


@pytest.fixture
def taps(monkeypatch: pytest.MonkeyPatch) -> list[Tap]:
    """Give a list of all that is tapped, and of the sockets behind."""
    made: list[Tap] = []

    class Noted(Tap):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.socket = os.readlink(f"/proc/self/fd/{self._handle}")
            made.append(self)

    monkeypatch.setattr(connection, "Tap", Noted)
    return made


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Blocks]]:
    """See that no memory is counted for ever."""
    made: list[Blocks] = []
    begin = Blocks.__init__

    def remembered(self: Blocks) -> None:
        begin(self)
        made.append(self)

    monkeypatch.setattr(Blocks, "__init__", remembered)
    yield made
    assert {one._in_use for one in made} <= {0}


def still_open(taps: list[Tap]) -> set[str]:
    """Return which of the sockets that were tapped are open, under whatever number."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return found & {tap.socket for tap in taps}


def ranges(warehouse: WarehouseThread, path: str = "/f.nwb") -> list[str | None]:
    return [record.header("Range") for record in warehouse.requests(path)]


def test_a_thread_reads_from_the_socket(
    warehouse: WarehouseThread, open_cache: Open, taps: list[Tap], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", BODY)]})
    readers, receive = set(), Tap.pour

    def once_it_has_come(self: Tap, *arguments: Any) -> int:
        if not self.received:
            select.select([self._handle], [], [], 20)
        readers.add(threading.current_thread().name.rpartition("_")[0])
        return receive(self, *arguments)

    monkeypatch.setattr(Tap, "pour", once_it_has_come)
    result = open_cache(table, options=ALONE).mirror(table)
    assert Path(result.paths[0]).read_bytes() == BODY
    assert result.summary()["bytes"] == len(BODY)
    assert readers == {"framefetch-disk"}
    assert all(tap.received for tap in taps[1:]), "the first stint ends with what the loop had received"
    assert 0 < sum(tap.received for tap in taps) < len(BODY)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("seed", range(3))
def test_a_body_that_is_cut_again_and_again_is_gone_on_with_where_it_was_cut(
    how: str, seed: int, warehouse: WarehouseThread, open_cache: Open, taps: list[Tap], note: Note
) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", BODY)]})
    chance = random.Random(f"{how} {seed}")
    cuts = sorted(chance.sample(range(2 * MIB, len(BODY)), 5))
    lengths = [cut - before for before, cut in zip([0, *cuts], cuts, strict=False)]
    warehouse.script("/f.nwb", *(Serve(stop=Stop(length, how)) for length in lengths), then=Serve())
    cache = open_cache(table, options=ALONE)
    result = cache.mirror(table)
    assert result.frame["md5"].tolist() == [hashlib.md5(BODY).hexdigest()]
    assert Path(result.paths[0]).read_bytes() == BODY
    assert ranges(warehouse) == [None, *(f"bytes={cut}-" for cut in cuts)], "all that had come is kept"
    assert result.summary()["bytes"] == len(BODY), "and counted once"
    assert taps
    cache.close()
    assert not still_open(taps)
    note("70", f"8 MiB, {how} at five places", "downloaded", len(cuts) + 1)


def test_one_that_falls_silent_is_ended_and_gone_on_with(
    warehouse: WarehouseThread, open_cache: Open, taps: list[Tap], note: Note
) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", BODY)]})
    warehouse.script("/f.nwb", Serve(stop=Stop(5 * MIB + 7, "hang")), Serve())
    result = open_cache(table, options=replace(ALONE, timeouts=Timeouts(connect=2, stall=0.2))).mirror(table)
    assert Path(result.paths[0]).read_bytes() == BODY
    assert ranges(warehouse) == [None, f"bytes={5 * MIB + 7}-"]
    assert taps
    note("69", "silence after 5 of 8 MiB", "downloaded", 2)


def test_the_unread_body_of_a_redirect_does_not_stop_the_clock(
    warehouse: WarehouseThread, open_cache: Open, note: Note
) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", BODY)]})
    warehouse.add("/there.nwb", BODY)
    warehouse.script("/f.nwb", then=Reply(302, bytes(2 * MIB), headers={"Location": "/there.nwb"}))
    warehouse.script("/there.nwb", Serve(stop=Stop(0, "hang", of="wire")), then=Serve())
    result = open_cache(table, options=replace(ALONE, timeouts=Timeouts(connect=2, stall=0.2))).mirror(table)
    assert Path(result.paths[0]).read_bytes() == BODY
    assert warehouse.count("/there.nwb") == 2
    note("69", "silence after a redirect with 2 MiB", "downloaded", 2)


@pytest.mark.parametrize("when", ["with its last bytes", "once it is idle"])
def test_what_is_sent_behind_a_body_never_reaches_the_next_file(
    when: str, warehouse: WarehouseThread, open_cache: Open, taps: list[Tap], note: Note
) -> None:
    contents = [hdf5_file(2 * MIB + 1 + at, seed=at) for at in range(6)]  # the end goes with what follows
    table = pd.DataFrame({"url": [warehouse.add(f"/{at}.nwb", body) for at, body in enumerate(contents)]})
    second = Reply(200, WRONG, headers={"ETag": '"x"'})
    if when == "once it is idle":
        warehouse.script_all(Serve(push=Push(second)))
    else:
        # Where the loop meets both in one look, that is an error of the answer, and the file is asked for again.
        warehouse.script_all(Serve(after=reply_bytes(second)), then=Serve())
    cache = open_cache(table, options=replace(ALONE, limits=Limits(connections=1)))
    for at, right in enumerate(contents):
        result = cache.mirror(table.iloc[[at]])
        assert Path(result.paths.iloc[0]).read_bytes() == right
        if when == "once it is idle":
            warehouse.release(f"/{at}.nwb")
            warehouse.wait_for(f"/{at}.nwb", 1, "pushed")
    assert cache.verify("hash") == []
    assert taps
    note("15", f"another answer behind a large one, {when}", "downloaded", warehouse.count())


async def test_a_call_that_is_cancelled_while_a_thread_reads_leaves_nothing_open(
    warehouse: WarehouseThread,
    open_cache: Open,
    taps: list[Tap],
    monkeypatch: pytest.MonkeyPatch,
    note: Note,
) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", BODY), warehouse.add("/g.nwb", b"\x89HDF\r\n\x1a\n")]})
    reading, go_on, receive = threading.Event(), threading.Event(), Tap.pour

    def slow(self: Tap, into: Any, most: int, *arguments: Any) -> int:
        count = receive(self, into, min(most, MIB), *arguments)
        if self.received > MIB:
            reading.set()
            assert go_on.wait(20)
        return count

    monkeypatch.setattr(Tap, "pour", slow)
    cache = open_cache(table, options=ALONE)
    call = asyncio.create_task(cache.fetch_all(table.head(1)))
    await asyncio.to_thread(reading.wait, 20)
    call.cancel()
    await asyncio.sleep(0)
    assert still_open(taps), "the thread is let end first"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    await cache.fetch_all(table.tail(1))  # on the same loop
    assert not still_open(taps)
    assert (await cache.fetch_all(table)).ok.all()
    assert (Path(cache.cache_dir) / "v0" / "f.nwb").read_bytes() == BODY
    note("101", "cancelled while a thread reads", "CancelledError", warehouse.count())


def test_a_disk_that_runs_full_while_a_thread_reads(
    warehouse: WarehouseThread, open_cache: Open, taps: list[Tap], monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", BODY)]})
    write, pour = DigestingFile.write, DigestingFile.pour

    def require_room(self: DigestingFile, count: int) -> None:
        if self.hasher.length + count > 5 * MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(self: DigestingFile, block: Any) -> int:
        require_room(self, len(block))
        return write(self, block)

    def flooded(self: DigestingFile, source: int, room: memoryview, most: int, seconds: float) -> Any:
        told = pour(self, source, room, max(1, min(most, 5 * MIB - self.hasher.length)), seconds)
        require_room(self, 1)
        return told

    cache = open_cache(table, options=ALONE)
    with monkeypatch.context() as patched:
        patched.setattr(DigestingFile, "write", full)
        patched.setattr(DigestingFile, "pour", flooded)
        with pytest.raises(DiskFull, match=r"writing v0/f.nwb: .*ENOSPC"):
            cache.mirror(table)
    assert not (Path(cache.cache_dir) / "v0" / "f.nwb").exists()
    assert warehouse.count() == 1
    assert Path(cache.mirror(table).paths[0]).read_bytes() == BODY
    cache.close()
    assert taps
    assert not still_open(taps)
    note("93", "a disk full while a thread reads", "DiskFull", 1)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [(bytes(4 * MIB) + hdf5_file(2 * MIB), "downloaded"), (b"<html>" + b"log in " * MIB, "failed")],
    ids=["a user block", "a page"],
)
def test_what_may_still_be_no_file_is_looked_at(
    body: bytes, outcome: str, warehouse: WarehouseThread, open_cache: Open, taps: list[Tap]
) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", body)]})
    frame = open_cache(table, options=ALONE).mirror(table).frame
    assert frame["status"].tolist() == [outcome], frame["error"][0]
    assert frame["error_type"].dropna().tolist() == ([] if outcome == "downloaded" else ["ContentMismatch"])
    assert sum(tap.taken for tap in taps) <= 2 * MIB, "only behind where HDF5 begins"


def test_a_limited_bandwidth_is_kept(warehouse: WarehouseThread, open_cache: Open, taps: list[Tap]) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", BODY)]})
    cache = open_cache(table, options=replace(ALONE, limits=Limits(bandwidth=100e6)))
    assert Path(cache.mirror(table).paths[0]).read_bytes() == BODY
    assert not taps


def test_where_no_descriptor_is_left_the_loop_reads(
    warehouse: WarehouseThread, open_cache: Open, taps: list[Tap], monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    contents = [hdf5_file(3 * MIB + at, seed=at) for at in range(4)]
    table = pd.DataFrame({"url": [warehouse.add(f"/{at}.nwb", body) for at, body in enumerate(contents)]})

    def refuse(handle: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("framefetch.sources.tap.os.dup", refuse)
    frame = open_cache(table, options=ALONE).mirror(table).frame
    assert frame["md5"].tolist() == [hashlib.md5(body).hexdigest() for body in contents]
    assert frame["attempts"].tolist() == [1] * 4
    assert not taps
    note("98", "no descriptor to read a socket by", "downloaded", 4)
