"""Faults of whole hosts: too many at once, storms, silence, no host at all. What the servers saw is what counts."""

import itertools
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from framefetch import Limits, MetadataCache, Options, RetryPolicy, Timeouts
from framefetch.engine.limits import START
from framefetch.warehouse import Raw, Reply, RequestRecord, Serve, Stop, WarehouseThread, hdf5_file
from tests.conftest import EAGER
from tests.seals import tls_warehouse

Note = Callable[[str, str, str, int], None]
CONTENT = hdf5_file(2000, seed=1)


def stock(warehouse: WarehouseThread, count: int, name: str = "f") -> list[str]:
    return [warehouse.add(f"/{name}{at}.nwb", CONTENT) for at in range(count)]


def mirror(urls: list[str], folder: Path, options: Options = EAGER) -> pd.DataFrame:
    table = pd.DataFrame({"url": urls})
    with MetadataCache(table, folder, options=options) as cache:
        frame = cache.mirror(table).frame
        assert cache.verify("hash") == []
    return frame


@pytest.mark.parametrize(
    ("how", "answer"),
    [
        ("503", Reply(503)),
        ("429", Reply(429)),
        ("RST", Raw(b"", end="reset")),
        ("FIN", Raw(b"", end="close")),
    ],
)
def test_case_36_a_host_that_takes_two_at_a_time(
    how: str, answer: Reply | Raw, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    urls = stock(warehouse, 150)
    warehouse.script_all(Serve(delay=0.005))
    warehouse.limit(2, answer)
    frame = mirror(urls, tmp_path, Options(retry=RetryPolicy(base=0.05)))
    assert frame["status"].tolist() == ["downloaded"] * 150
    refused = warehouse.count() - 150
    assert refused <= START + 15, "one burst at the beginning, then a try now and then"
    assert frame["attempts"].max() <= 2 * 5
    late = warehouse.log[-60:]
    assert sum(record.status != 200 for record in late) <= 10, "a try now and then, also on a machine that is busy"
    note("36", f"two at a time, {how} to those above", "downloaded", warehouse.count())


def test_case_54_retry_after_holds_the_host_and_no_other(
    warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    with WarehouseThread() as other:
        urls = stock(warehouse, 40)
        warehouse.script("/f0.nwb", Reply(503, headers={"Retry-After": "1"}), then=Serve())
        frame = mirror(urls + stock(other, 40, "other"), tmp_path)
        assert frame["status"].tolist() == ["downloaded"] * 80
        told = warehouse.requests("/f0.nwb")[0].answered_at
        # What was under way when the word came had been sent before it was heard.
        later = [record.received_at - told for record in warehouse.log if record.received_at > told + 0.2]
        assert min(later) >= 1.0
        assert len(later) >= 40 - 2 * START
        assert max(record.answered_at for record in other.log) < told + 1.0
        note("54", "Retry-After: 1 in one of 40 answers", "downloaded", warehouse.count())


@pytest.mark.parametrize("goes_on", ["at a mirror elsewhere", "at a mirror of the same host", "nowhere"])
def test_case_54_retry_after_holds_the_host_whatever_becomes_of_the_row(
    goes_on: str, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    with WarehouseThread() as other:
        urls = stock(warehouse, 20)
        mirrors = stock(other if goes_on == "at a mirror elsewhere" else warehouse, 20, "copy")
        rows = urls if goes_on == "nowhere" else [f"{url} {copy}" for url, copy in zip(urls, mirrors, strict=True)]
        warehouse.script("/f3.nwb", Reply(429, headers={"Retry-After": "1"}), then=Serve())
        # One at a time, so nothing is under way when the word comes; and one try, so the row is at its end with it.
        options = Options(retry=RetryPolicy(attempts=1), limits=Limits(per_host=1))
        frame = mirror(rows, tmp_path, options)
        lost = [3] if goes_on == "nowhere" else []
        assert frame.index[frame["status"] == "failed"].tolist() == lost
        told = warehouse.requests("/f3.nwb")[0].answered_at
        later = [record.received_at - told for record in warehouse.log if record.received_at > told]
        assert min(later) >= 1.0
        assert [record.path for record in other.log] == ["/copy3.nwb"] * (goes_on == "at a mirror elsewhere")
        assert all(record.received_at < told + 1.0 for record in other.log)
        note("54", f"Retry-After: 1, the row goes on {goes_on}", "failed" if lost else "downloaded", warehouse.count())


def test_case_58_a_storm_of_503_without_end(warehouse: WarehouseThread, tmp_path: Path, note: Note) -> None:
    with WarehouseThread() as healthy:
        warehouse.script_all(Reply(503))
        bad = [warehouse.url(f"/{at}.nwb") for at in range(1000)]
        frame = mirror(bad + stock(healthy, 50), tmp_path, Options(retry=RetryPolicy(base=0.1)))
        assert frame["status"].tolist() == ["failed"] * 1000 + ["downloaded"] * 50
        assert set(frame["error_type"][:1000]) == {"StatusError"}
        assert "503" in frame["error"][999]
        assert "the host is given up after" in frame["error"][999]
        assert warehouse.count() == START + 4, "one burst, then one probe after each pause"
        assert max(record.answered_at for record in healthy.log) < max(record.answered_at for record in warehouse.log)
        note("58", "503 to each of 1,000 rows", "StatusError", warehouse.count())


def test_case_58_a_storm_that_passes(warehouse: WarehouseThread, tmp_path: Path, note: Note) -> None:
    """Between the bursts the host is asked by one request at a time, at random intervals; then all are served."""
    urls = stock(warehouse, 300)
    arrivals = itertools.count()
    storm = range(100, 100 + START + 4)

    def answer(_: RequestRecord) -> Reply | Serve:
        return Reply(503) if next(arrivals) in storm else Serve()

    warehouse.script_all(answer)
    # On a busy machine fewer may be under way when the storm comes; then there are more probes, and none is the last.
    retry = RetryPolicy(base=0.1, cap=0.4, attempts=len(storm))
    frame = mirror(urls, tmp_path, Options(retry=retry, limits=Limits(per_host=START)))
    assert frame["status"].tolist() == ["downloaded"] * 300
    assert warehouse.count() == 300 + len(storm)
    probes = [record.received_at for record in warehouse.log[storm.start + START : storm.stop + 1]]
    assert len(probes) == 5
    gaps = [later - earlier for earlier, later in itertools.pairwise(probes)]
    assert len({round(gap, 3) for gap in gaps}) > 1, "drawn, not in step"
    note("58", "503 for a while in the middle of 300 rows", "downloaded", warehouse.count())


def test_case_58_so_many_a_second_and_429_above(warehouse: WarehouseThread, tmp_path: Path, note: Note) -> None:
    """A bucket of requests that fills slowly: the pauses let it fill, and no row runs out of attempts."""
    urls = stock(warehouse, 150)
    bucket = {"level": 20.0, "at": time.monotonic()}

    def answer(record: RequestRecord) -> Reply | Serve:
        bucket["level"] = min(20.0, bucket["level"] + (record.received_at - bucket["at"]) * 100)
        bucket["at"] = record.received_at
        if bucket["level"] < 1:
            return Reply(429)
        bucket["level"] -= 1
        return Serve()

    warehouse.script_all(answer)
    frame = mirror(urls, tmp_path, Options(retry=RetryPolicy(attempts=8, base=0.2)))
    assert frame["status"].tolist() == ["downloaded"] * 150
    assert warehouse.count() <= 2 * 150
    note("58", "100 requests a second, 429 above", "downloaded", warehouse.count())


def test_case_69_a_silent_host_costs_a_few_silences(warehouse: WarehouseThread, tmp_path: Path, note: Note) -> None:
    with WarehouseThread() as healthy:
        warehouse.script_all(Serve(stop=Stop(0, "hang", of="wire")))
        silent = [warehouse.url(f"/{at}.nwb") for at in range(1000)]
        silence = 1.0  # so long that a busy machine, too, has fetched fifty files by then
        options = Options(retry=RetryPolicy(base=0.01), timeouts=Timeouts(stall=silence))
        began = time.monotonic()
        frame = mirror(silent + stock(healthy, 50), tmp_path, options)
        assert time.monotonic() - began < 5 * silence + 3
        assert frame["status"].tolist() == ["failed"] * 1000 + ["downloaded"] * 50
        assert set(frame["error_type"][:1000]) == {"Stalled"}
        assert warehouse.count() == START + 4
        silence_over = min(record.received_at for record in warehouse.log) + silence
        assert max(record.answered_at for record in healthy.log) < silence_over
        note("69", "1,000 rows of a silent host beside a healthy one", "Stalled", warehouse.count())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_case_75_a_hundred_thousand_rows_of_a_host_that_is_down(
    warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    bad = [f"{down}/{at}.nwb" for at in range(100_000)]
    began = time.monotonic()
    frame = mirror(bad + stock(warehouse, 100), tmp_path)
    assert time.monotonic() - began < 15
    assert (frame["status"][:100_000] == "failed").all()
    assert (frame["status"][100_000:] == "downloaded").all()
    assert set(frame["error_type"][:100_000]) == {"ConnectFailed"}
    # Attempts are connections here, since each row that was tried at all was tried for itself.
    assert frame["attempts"][:100_000].sum() == START + 4
    causes = frame["error"][:100_000].value_counts()
    assert f"no connection to {down}" in causes.index[0]
    assert f"the host is given up after {START + 4} tries in" in causes.index[0]
    note("75", "100,000 rows of a refused port", "ConnectFailed", START + 4)


def test_case_75_rows_with_a_mirror_go_there(warehouse: WarehouseThread, tmp_path: Path, note: Note) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    good = stock(warehouse, 500)
    frame = mirror([f"{down}/f{at}.nwb {url}" for at, url in enumerate(good)], tmp_path)
    assert frame["status"].tolist() == ["downloaded"] * 500
    assert warehouse.count() == 500
    assert frame["attempts"].sum() - 500 <= 6 * START, "how often the dead host was tried"
    note("75", "500 rows of a refused port with a mirror each", "downloaded", warehouse.count())


def test_case_75_names_certificates(tmp_path: Path, note: Note) -> None:
    with tls_warehouse() as secure:
        frame = mirror(
            [secure.url(f"/{at}.nwb") for at in range(300)]
            + [f"http://no-such-host.invalid/n{at}.nwb" for at in range(300)],
            tmp_path,
        )
        assert set(frame["error_type"][:300]) == {"TlsFailed"}
        assert set(frame["error_type"][300:]) == {"NameNotResolved"}
        assert secure.connections <= START
        assert frame["attempts"][300:].sum() <= 2 * START
        assert secure.count() == 0
        note("75", "300 rows of a host without a good certificate", "TlsFailed", 0)


def test_case_75_a_host_that_had_answered_gets_more_time(
    warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    """It goes away for longer than a file's attempts last, and comes back: the rows that waited are served."""
    urls = stock(warehouse, 200)
    arrivals = itertools.count()
    away = range(60, 60 + START + 6)

    def answer(_: RequestRecord) -> Raw | Serve:
        return Raw(b"", end="reset") if next(arrivals) in away else Serve()

    warehouse.script_all(answer)
    frame = mirror(urls, tmp_path, Options(retry=RetryPolicy(base=0.02)))
    assert frame["status"].tolist() == ["downloaded"] * 200
    assert warehouse.count() == 200 + len(away)
    note("75", "a host that goes away for seven rounds", "downloaded", warehouse.count())


def test_a_host_that_is_far_away_is_asked_for_hundreds_at_once(warehouse: WarehouseThread, tmp_path: Path) -> None:
    """And each of them once: 16 + 32 + 128 files are through when 256 are asked for."""
    urls = stock(warehouse, 800)
    warehouse.script_all(Serve(delay=0.15))
    frame = mirror(urls, tmp_path, Options())  # whose stall timeout no pause of a busy machine comes near
    assert frame["status"].tolist() == ["downloaded"] * 800
    assert warehouse.peak_concurrency >= 128
    assert warehouse.count() == 800


def test_case_53_waits_shorter_than_the_loops_clock_can_tell(warehouse: WarehouseThread, tmp_path: Path) -> None:
    """Workers that rest until a time that has come meanwhile (uvloop counts in milliseconds)."""
    urls = stock(warehouse, 200)
    for at in range(200):
        warehouse.script(f"/f{at}.nwb", Reply(500), Reply(500), then=Serve())
    frame = mirror(urls, tmp_path, Options(retry=RetryPolicy(base=0.001, cap=0.001)))
    assert frame["attempts"].tolist() == [3] * 200
    assert warehouse.count() == 600
