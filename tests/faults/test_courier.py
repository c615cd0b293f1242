"""Many small files, which a thread asks for by itself, with something out of the ordinary among them."""

import asyncio
import errno
import hashlib
import os
import select
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from framefetch import Limits, MetadataCache, Options, RetryPolicy, TableOptions, Timeouts, TransferOptions
from framefetch.engine import courier
from framefetch.engine.courier import Courier, Parcel
from framefetch.engine.dispatch import Dispatch
from framefetch.engine.limits import START
from framefetch.errors import DiskFull
from framefetch.sources import loan
from framefetch.sources.http import HttpSource
from framefetch.sources.loan import Ear
from framefetch.sources.watchdog import Watch
from framefetch.store import files
from framefetch.warehouse import CONTINUE, Chunked, Raw, Reply, RequestRecord, Serve, Stop, WarehouseThread, gzipped
from tests.conftest import EAGER

pytestmark = pytest.mark.usefixtures("way")

FILES = 120
AT = 60
BODIES = [bytes([at]) * (1000 + at) for at in range(FILES)]
NAMES = [f"/{at:03}.bin" for at in range(FILES)]


@pytest.fixture
def warehouse(reached: WarehouseThread) -> WarehouseThread:
    """Give a running warehouse, empty, as it is reached each way."""
    return reached


@pytest.fixture(autouse=True)
def _descriptors():
    """See that no number of a socket is left."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    left = set(os.listdir("/proc/self/fd")) - before
    kinds = {name: os.readlink(f"/proc/self/fd/{name}") for name in left if os.path.lexists(f"/proc/self/fd/{name}")}
    assert [kind for kind in kinds.values() if "event" in kind] == []


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[Parcel]:
    """Give a list of all that the thread brings."""
    brought: list[Parcel] = []
    deliver = Dispatch._delivered

    def noted(self, parcels) -> None:
        brought.extend(parcels)
        deliver(self, parcels)

    monkeypatch.setattr(Dispatch, "_delivered", noted)
    return brought


@pytest.fixture
def shelf(warehouse: WarehouseThread) -> WarehouseThread:
    for name, body in zip(NAMES, BODIES, strict=True):
        warehouse.add(name, body)
    return warehouse


def table(warehouse: WarehouseThread, names: list[str] = NAMES) -> pd.DataFrame:
    return pd.DataFrame({"url": [warehouse.url(name) for name in names]})


def digests(bodies: list[bytes]) -> list[str]:
    return [hashlib.md5(body).hexdigest() for body in bodies]


@pytest.mark.parametrize("limits", [Limits(), Limits(connections=1), Limits(per_host=3)])
def test_every_file_is_asked_for_once(shelf, tmp_path, carried, limits) -> None:
    with MetadataCache(table(shelf), tmp_path, options=replace(EAGER, limits=limits)) as cache:
        frame = cache.mirror(table(shelf)).frame
        assert frame["md5"].tolist() == digests(BODIES)
        assert (frame["attempts"] == 1).all()
        assert len(shelf.requests()) == FILES
        assert shelf.connections <= min(limits.connections, limits.per_host)
        assert len(carried) > FILES // 2
        assert cache.mirror(table(shelf)).figures.requests == 0
    assert [(tmp_path / "v0" / name[1:]).read_bytes() for name in NAMES] == BODIES


@pytest.mark.parametrize(
    ("answer", "requests"),
    [
        (Serve(before=CONTINUE), 1),
        (Serve(framing=Chunked()), 1),
        (Serve(transform=gzipped, headers={"Content-Encoding": "gzip"}), 1),
        (Serve(headers={"Set-Cookie": "a=b"}), 1),
        (Serve(framing="close"), 1),
        (Serve(end="close", headers={"Connection": "close"}), 1),
        (Serve(end="close"), 1),
        (Serve(end="reset"), None),
        (Serve(stop=Stop(20, of="wire")), 2),
        (Serve(stop=Stop(300, "close")), 2),
        (Serve(stop=Stop(300, "reset")), 2),
        (Serve(stop=Stop(0, "close", of="wire")), 2),
        (Serve(stop=Stop(300, "hold", seconds=0.4)), 1),
        (Serve(delay=0.4), 1),
        (Serve(after=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"), 2),
        (Serve(headers={"Content-Length": ["1060", "1061"]}), 2),
        (Reply(302, headers={"Location": "/moved.bin"}), 1),
        (Reply(503), 2),
        (Reply(500), 2),
        (Reply(429, headers={"Retry-After": "0"}), 2),
    ],
)
def test_one_answer_that_is_out_of_the_ordinary_is_the_loops(
    shelf, tmp_path, monkeypatch, carried, answer, requests
) -> None:
    monkeypatch.setattr(courier, "PATIENCE", 0.2)
    shelf.add("/moved.bin", BODIES[AT])
    shelf.script(NAMES[AT], answer, Serve())
    # A stall timeout that a busy machine does not come near with the answers that take 0.4 s.
    options = replace(EAGER, limits=Limits(per_host=4), timeouts=Timeouts(stall=10.0))
    with MetadataCache(table(shelf), tmp_path, options=options) as cache:
        frame = cache.mirror(table(shelf)).frame
    assert frame["error"].isna().all(), frame["error"].dropna().tolist()
    assert frame["md5"].tolist() == digests(BODIES)
    assert requests is None or len(shelf.requests(NAMES[AT])) == requests
    assert all(len(shelf.requests(name)) == 1 for name in NAMES[: AT - 8])
    assert len({parcel.job.request.path for parcel in carried} & {f"v0{name}" for name in NAMES[AT:]}) > FILES // 4


@pytest.mark.parametrize("fold", ["X-A: b\r\n  c: d", "X-A: b\r\n\tContent-Length: 1", "X-A:\r\n b"])
def test_a_server_that_folds_its_lines_is_understood(tmp_path, fold) -> None:
    """On whatever way its files come: RFC 9112 section 5.2 has who receives such a line make it one."""
    with WarehouseThread() as warehouse:
        table = pd.DataFrame({"url": [warehouse.add(f"/{at}.bin", b"%d" % at * 9) for at in range(60)]})
        for at in range(60):
            body = str(at) * 9
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{fold}\r\n\r\n"
            warehouse.script(f"/{at}.bin", Raw((head + body).encode(), end="keep"))
        with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
            frame = cache.mirror(table).frame
    assert set(frame["status"]) == {"downloaded"}, frame["error"].iloc[0]
    assert [Path(path).read_bytes() for path in frame["path"]] == [b"%d" % at * 9 for at in range(60)]


def test_a_file_that_is_not_there_fails_alone(shelf, tmp_path, carried) -> None:
    for name in NAMES[::7]:
        shelf.remove(name)
    with MetadataCache(table(shelf), tmp_path, options=EAGER) as cache:
        frame = cache.mirror(table(shelf)).frame
    assert frame["status"].tolist() == ["downloaded" if at % 7 else "failed" for at in range(FILES)]
    assert len(shelf.requests()) == FILES
    assert carried


def test_after_too_many_requests_the_host_is_left_alone_as_long_as_it_asks_for(shelf, tmp_path) -> None:
    shelf.script(NAMES[AT], Reply(429, headers={"Retry-After": "1"}), Serve())
    with MetadataCache(table(shelf), tmp_path, options=replace(EAGER, limits=Limits(per_host=4))) as cache:
        assert (cache.mirror(table(shelf)).frame["status"] == "downloaded").all()
    refused = shelf.requests(NAMES[AT])[0].answered_at
    # Whoever was asked in the same moment did not know.
    early = [record for record in shelf.requests() if refused + 0.1 < record.received_at < refused + 0.95]
    assert early == []
    assert len([record for record in shelf.requests() if record.received_at > refused + 0.95]) > FILES - AT - 20


def test_sizes_digests_and_contents_are_judged_as_ever(shelf, tmp_path, carried) -> None:
    rows = table(shelf)
    rows["size"] = [len(body) for body in BODIES]
    rows["md5"] = digests(BODIES)
    rows.loc[50, "md5"] = "0" * 32
    rows.loc[70, "size"] = 7
    with MetadataCache(rows, tmp_path, options=EAGER) as cache:
        frame = cache.mirror(rows).frame
    assert frame.index[frame["status"] != "downloaded"].tolist() == [50, 70]
    assert frame.loc[50, "error"].startswith("expected md5:0000")
    assert "as the table states" in frame.loc[70, "error"]
    assert not (tmp_path / "v0/050.bin").exists()
    assert carried


def test_a_page_is_no_recording(shelf, tmp_path, carried) -> None:
    names = [f"/{at}.nwb" for at in range(40)]
    for name in names:
        shelf.add(name, b"\x89HDF\r\n\x1a\n" + bytes(2000))
    shelf.add(names[30], b"<html><title>Log in</title>" + bytes(2000))
    with MetadataCache(table(shelf, names), tmp_path, options=EAGER) as cache:
        frame = cache.mirror(table(shelf, names)).frame
    assert frame.index[frame["status"] == "failed"].tolist() == [30]
    assert "Log in" in frame.loc[30, "error"]
    assert carried


@pytest.mark.parametrize("stated", [True, False])
def test_large_files_among_small_ones(shelf, tmp_path, carried, stated) -> None:
    bodies = [body * (2000 if at % 9 == 4 else 1) for at, body in enumerate(BODIES)]
    for name, body in zip(NAMES, bodies, strict=True):
        shelf.add(name, body)
    rows = table(shelf)
    if stated:
        rows["size"] = [len(body) for body in bodies]
    options = replace(EAGER, limits=Limits(per_host=4), transfer=TransferOptions(segments=1))
    with MetadataCache(rows, tmp_path, options=options) as cache:
        assert cache.mirror(rows).frame["md5"].tolist() == digests(bodies)
    assert len(shelf.requests()) == FILES
    assert carried


def test_a_silent_answer_ends_after_the_stall_timeout_and_not_much_later(shelf, tmp_path, carried) -> None:
    shelf.script(NAMES[AT], Serve(stop=Stop(100, "hang")))
    options = Options(retry=RetryPolicy(attempts=1), timeouts=Timeouts(stall=1.2))
    with MetadataCache(table(shelf), tmp_path, options=options) as cache:
        frame = cache.mirror(table(shelf)).frame
    assert frame.index[frame["status"] == "failed"].tolist() == [AT]
    assert frame.loc[AT, "error"].startswith("no bytes for 1.")
    silent = shelf.requests(NAMES[AT])[0]
    assert silent.answered_at - silent.received_at < 1.2 * 1.5
    assert carried


def test_two_hosts_both_get_on(shelf, tmp_path, carried) -> None:
    with WarehouseThread() as other:
        for name, body in zip(NAMES, BODIES, strict=True):
            other.add(name, body)
        rows = pd.concat([table(shelf), table(other)], ignore_index=True)
        rows["path"] = [f"{at}.bin" for at in range(2 * FILES)]
        by_path = TableOptions(path_template="{path}")
        options = replace(EAGER, limits=Limits(connections=6, per_host=4))
        with MetadataCache(rows, tmp_path, options=options, table=by_path) as cache:
            assert cache.mirror(rows).frame["md5"].tolist() == 2 * digests(BODIES)
        firsts = [min(record.received_at for record in one.requests()) for one in (shelf, other)]
        lasts = [max(record.received_at for record in one.requests()) for one in (shelf, other)]
    assert max(firsts) < min(lasts), "one after the other"
    assert len(carried) > FILES


def test_a_stop_keeps_what_is_there_and_ends_the_thread(shelf, tmp_path, carried) -> None:
    shelf.script(NAMES[AT], Serve(stop=Stop(100, "hang")), Serve())

    async def cut() -> None:
        async with MetadataCache(table(shelf), tmp_path, options=replace(EAGER, limits=Limits(per_host=2))) as cache:
            work = asyncio.ensure_future(cache.fetch_all(table(shelf)))
            await asyncio.to_thread(shelf.wait_for, NAMES[AT], 1, "held")
            work.cancel()
            began = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await work
            assert time.monotonic() - began < 2

    asyncio.run(cut())
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("framefetch-courier")] == []
    asked = len(shelf.requests())
    there = len(list((tmp_path / "v0").iterdir()))
    shelf.script(NAMES[AT], Serve())
    with MetadataCache(table(shelf), tmp_path, options=EAGER) as cache:
        frame = cache.mirror(table(shelf)).frame
        assert frame["md5"].tolist() == digests(BODIES)
        assert (frame["status"] == "cached").sum() == there
    assert len(shelf.requests()) - asked == FILES - there


def test_a_full_disk_ends_the_run_with_one_error(shelf, tmp_path, monkeypatch, carried) -> None:
    write = files.at_once.write_new

    def refuse(paths, bodies):
        return [28] * len(paths) if len(carried) > 20 else write(paths, bodies)

    changed = SimpleNamespace(**{name: getattr(files.at_once, name) for name in dir(files.at_once)})
    changed.write_new = refuse
    monkeypatch.setattr(files, "at_once", changed)
    with (
        MetadataCache(table(shelf), tmp_path, options=replace(EAGER, limits=Limits(per_host=2))) as cache,
        pytest.raises(DiskFull) as caught,
    ):
        cache.mirror(table(shelf))
    frame = caught.value.result.frame
    assert (frame["status"] == "failed").sum() == 1
    assert (frame["status"] == "downloaded").sum() == len(list((tmp_path / "v0").iterdir()))


def test_without_descriptors_for_it_all_goes_the_ordinary_way(shelf, tmp_path, monkeypatch, carried) -> None:
    def refuse(self) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Ear, "__init__", refuse)
    with MetadataCache(table(shelf), tmp_path, options=EAGER) as cache:
        assert cache.mirror(table(shelf)).frame["md5"].tolist() == digests(BODIES)
    assert carried == []


def test_a_fault_of_the_thread_ends_the_run(shelf, tmp_path, monkeypatch) -> None:
    def break_off(self, *_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Courier, "_take", break_off)
    with MetadataCache(table(shelf), tmp_path, options=EAGER) as cache, pytest.raises(ZeroDivisionError):
        cache.mirror(table(shelf))


def test_what_was_received_and_asked_adds_up(shelf, tmp_path: Path, carried) -> None:
    with MetadataCache(table(shelf), tmp_path, options=EAGER) as cache:
        result = cache.mirror(table(shelf))
    assert (result.figures.requests, result.figures.bytes) == (FILES, sum(map(len, BODIES)))
    assert carried


def test_a_cookie_that_comes_midway_is_sent_with_all_that_is_asked_after_it(shelf, tmp_path, carried) -> None:
    shelf.script(NAMES[AT], Serve(headers={"Set-Cookie": "session=1"}))
    with MetadataCache(table(shelf), tmp_path, options=replace(EAGER, limits=Limits(per_host=1))) as cache:
        assert (cache.mirror(table(shelf)).frame["status"] == "downloaded").all()
    cookies = [record.header("Cookie") for record in shelf.requests()]
    assert cookies == [None] * (AT + 1) + ["session=1"] * (FILES - AT - 1)
    assert carried


def test_a_wait_that_the_loop_hears_of_is_kept_by_the_thread(shelf, tmp_path, carried) -> None:
    shelf.script_all(then=Serve(delay=0.02))
    shelf.script(NAMES[20], Reply(500), Reply(429, headers={"Retry-After": "1"}), Serve())
    with MetadataCache(table(shelf), tmp_path, options=replace(EAGER, limits=Limits(per_host=2))) as cache:
        assert (cache.mirror(table(shelf)).frame["status"] == "downloaded").all()
    told = shelf.requests(NAMES[20])[1].answered_at
    assert [record for record in shelf.requests() if told + 0.1 < record.received_at < told + 0.95] == []
    assert len([record for record in shelf.requests() if record.received_at > told + 0.95]) > 20
    assert carried


def test_wrong_bytes_that_the_thread_brought_are_asked_for_once_more_on_a_new_connection(
    shelf, tmp_path, carried
) -> None:
    def answer(record: RequestRecord) -> Serve:
        before = [other for other in shelf.requests() if other.connection == record.connection]
        return Serve(content=bytes(len(BODIES[AT]))) if len(before) > 1 else Serve()

    shelf.script(NAMES[AT], answer)
    stated = table(shelf).assign(md5=digests(BODIES))
    with MetadataCache(stated, tmp_path, options=replace(EAGER, limits=Limits(per_host=2))) as cache:
        frame = cache.mirror(stated).frame
    assert (frame["verified"] == "digest").all(), frame["error"].dropna().tolist()
    assert [parcel.job.request.index for parcel in carried if parcel.result is not None].count(AT) == 1
    assert shelf.count(NAMES[AT]) == 2


@pytest.mark.parametrize("fails_at", [1, 3])
def test_where_no_more_sockets_can_be_listened_to_the_loop_goes_on(
    shelf, tmp_path, monkeypatch, carried, fails_at
) -> None:
    calls: list[int] = []

    class Full:
        """The system's list, which takes the bell and then so many sockets; nobody can derive from the real one."""

        def __init__(self) -> None:
            self._real = select.epoll()

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def register(self, handle: int, events: int) -> None:
            calls.append(handle)
            if len(calls) > fails_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._real.register(handle, events)

    monkeypatch.setattr(loan, "select", SimpleNamespace(epoll=Full, EPOLLIN=select.EPOLLIN))
    with MetadataCache(table(shelf), tmp_path, options=EAGER) as cache:
        assert cache.mirror(table(shelf)).frame["md5"].tolist() == digests(BODIES)
    assert len(shelf.requests()) == FILES
    assert len(calls) > fails_at


def test_a_run_that_is_cancelled_before_it_begins_leaves_no_descriptor() -> None:
    async def cut() -> None:
        one = Courier(None, Options(), print, print)  # nothing is brought, so it asks nobody
        run = asyncio.create_task(one.run())
        await asyncio.sleep(0)
        assert one.is_ready()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert not one.is_ready()

    asyncio.run(cut())


def test_no_thread_is_begun_where_nothing_can_be_lent(shelf, tmp_path, monkeypatch, carried) -> None:
    made: list[Ear] = []
    monkeypatch.setattr(courier, "Ear", lambda: made.append(Ear()) or made[-1])
    with MetadataCache(table(shelf), tmp_path, options=EAGER) as cache:
        cache.mirror(table(shelf).head(1))
        assert made == []
        cache.mirror(table(shelf))
    assert len(made) == 1
    assert carried


def test_the_source_is_told_how_many_connections_there_may_be_soon(shelf, tmp_path: Path, monkeypatch) -> None:
    told: list[tuple[int, int]] = []
    expect = HttpSource.expect

    def noted(self, url: str, now: int, soon: int) -> None:
        told.append((now, soon))
        expect(self, url, now, soon)

    monkeypatch.setattr(HttpSource, "expect", noted)
    with MetadataCache(table(shelf), tmp_path, options=EAGER) as cache:
        assert (cache.mirror(table(shelf)).frame["status"] == "downloaded").all()
    assert told[0] == (START, 2 * START)
    assert all(now <= soon <= FILES for now, soon in told)
    assert told == [one for at, one in enumerate(told) if not at or one != told[at - 1]], "only what has changed"


def test_only_the_first_request_on_a_connection_may_not_have_been_noticed(shelf, tmp_path: Path, monkeypatch) -> None:
    begun: list[bool] = []
    begin = Watch.begin

    def noted(self, target, *, mute: bool = False) -> None:
        begun.append(mute)
        begin(self, target, mute=mute)

    monkeypatch.setattr(Watch, "begin", noted)
    options = replace(EAGER, limits=Limits(per_host=1, bandwidth=1 << 30))  # the loop asks for each
    with MetadataCache(table(shelf, NAMES[:4]), tmp_path, options=options) as cache:
        assert (cache.mirror(table(shelf, NAMES[:4])).frame["status"] == "downloaded").all()
    assert begun == [shelf.url("/").startswith("http:"), False, False, False], "in a TLS handshake the server speaks"


def test_a_loop_whose_clock_stands_between_its_turns_makes_no_negative_times(
    shelf: WarehouseThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvloop's does, for whole milliseconds; the thread looks at the system's."""

    class Standing(asyncio.SelectorEventLoop):
        def time(self) -> float:
            return super().time() // 0.05 * 0.05

    monkeypatch.setattr("framefetch.portal._new_loop", Standing)
    with MetadataCache(table(shelf), tmp_path / "c", options=EAGER) as cache:
        frame = cache.mirror(table(shelf)).frame
    assert frame["status"].unique().tolist() == ["downloaded"]
    assert frame["seconds"].min() >= 0
