"""What goes out: cells that are no addresses, redirects that lead nowhere, secrets that stay at home."""

import base64
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from framefetch import Limits, MetadataCache, RetryPolicy, Timeouts, TransferOptions
from framefetch.warehouse import Push, Reply, Serve, Stop, WarehouseThread, hdf5_file, rate
from tests.conftest import EAGER

CONTENT = hdf5_file(20_000, seed=1)
MD5 = hashlib.md5(CONTENT)
Note = Callable[[str, str, str, int], None]


def fetched(table: pd.DataFrame, folder: Path, options: object = EAGER) -> pd.DataFrame:
    """Mirror a table, and let the audit find nothing."""
    with MetadataCache(table, folder, options=options) as cache:
        frame = cache.mirror(table).frame
        assert cache.verify("hash") == []
    return frame


def test_case_16_a_slow_reader_gets_what_was_sent_before_the_end(
    warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    body = hdf5_file(20 << 20, seed=3)
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", body)]})
    warehouse.script("/f.nwb", Serve(end="close"))
    frame = fetched(
        table, tmp_path, replace(EAGER, limits=Limits(bandwidth=20 << 20), transfer=TransferOptions(segments=1))
    )
    assert frame["status"].tolist() == ["downloaded"]
    assert frame["md5"][0] == hashlib.md5(body).hexdigest()
    assert warehouse.count() == 1
    note("16", "all is sent and the connection ended; we read slowly", "downloaded", 1)


def test_case_15_what_is_pushed_into_a_broken_answer_is_not_gone_on_with(
    warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    """Bytes for an answer before, then a break: what came is longer than what was sent of this file."""
    urls = [warehouse.add("/first.nwb", CONTENT), warehouse.add("/second.nwb", CONTENT)]
    warehouse.script("/first.nwb", Serve(push=Push(b"extra", 0.3)))
    warehouse.script("/second.nwb", Serve(stop=Stop(10_240, "hold")), then=Serve())
    table = pd.DataFrame({"url": urls})
    with ThreadPoolExecutor() as pool:
        mirrored = pool.submit(fetched, table, tmp_path, replace(EAGER, limits=Limits(per_host=1)))
        warehouse.wait_for("/second.nwb", 1, "held")
        warehouse.wait_for("/first.nwb", 1, "pushed")
        warehouse.drop_connections("reset")
        frame = mirrored.result()
    first, second = warehouse.requests("/first.nwb")[0], warehouse.requests("/second.nwb")[0]
    assert first.connection == second.connection, "else this test says nothing"
    assert frame["status"].tolist() == ["downloaded"] * 2
    assert [Path(path).read_bytes() for path in frame["path"]] == [CONTENT] * 2
    assert warehouse.requests("/second.nwb")[1].header("Range") is None
    note("15", "late bytes of another answer, then a break", "downloaded", warehouse.count())


def test_case_15_what_is_pushed_into_a_broken_answer_waits_only_for_a_digest(
    warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    """While the table states one it will tell; a later run whose table states none must not believe what was kept."""
    urls = [warehouse.add("/first.nwb", CONTENT), warehouse.add("/second.nwb", CONTENT)]
    warehouse.script("/first.nwb", Serve(push=Push(b"extra", 0.3)))
    warehouse.script("/second.nwb", Serve(stop=Stop(10_240, "hold")), then=Serve())
    table = pd.DataFrame({"url": urls, "md5": [hashlib.md5(CONTENT).hexdigest()] * 2})
    once = replace(EAGER, limits=Limits(per_host=1), retry=RetryPolicy(attempts=1))
    with ThreadPoolExecutor() as pool:
        mirrored = pool.submit(fetched, table, tmp_path, once)
        warehouse.wait_for("/second.nwb", 1, "held")
        warehouse.wait_for("/first.nwb", 1, "pushed")
        warehouse.drop_connections("reset")
        assert mirrored.result()["status"].tolist() == ["downloaded", "failed"]
    (part,) = [path for path in tmp_path.glob("**/parts/*") if path.suffix == ""]
    assert CONTENT.startswith(part.read_bytes().removesuffix(b"extra")), "else this test says nothing"
    frame = fetched(table[["url"]], tmp_path, EAGER)
    assert Path(frame["path"][1]).read_bytes() == CONTENT
    assert warehouse.requests("/second.nwb")[1].header("Range") is None
    note("15", "late bytes, then a break, then no digest", "downloaded", warehouse.count())


def test_case_17_a_silence_between_two_files_is_none_of_the_second(
    warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    """The stall timeout of one exchange does not go off in the next one on the same connection."""
    urls = [warehouse.add(f"/{at}.nwb", CONTENT) for at in range(3)]
    table = pd.DataFrame({"url": urls})
    warehouse.script("/1.nwb", Serve(delay=0.4))
    options = replace(EAGER, timeouts=Timeouts(stall=0.3, connect=2.0))
    with MetadataCache(table, tmp_path, options=options) as cache:
        assert cache.mirror(table.iloc[[0]]).frame["status"].tolist() == ["downloaded"]
        assert cache.mirror(table.iloc[[1]]).frame["error_type"].tolist() == ["Stalled"]
        assert cache.mirror(table.iloc[[2]]).frame["status"].tolist() == ["downloaded"]
    assert (warehouse.count("/0.nwb"), warehouse.count("/2.nwb")) == (1, 1)
    note("17", "a stall ends its own exchange only", "downloaded", warehouse.count("/2.nwb"))


@pytest.mark.parametrize(
    ("cell", "status"),
    [
        (MD5.hexdigest().upper(), "downloaded"),
        (f"  {MD5.hexdigest()} ", "downloaded"),
        (base64.b64encode(MD5.digest()).decode(), "downloaded"),
        ("nan", "invalid"),
        ("f" * 31, "invalid"),
        ("g" * 32, "invalid"),
        ("f" * 65, "invalid"),
    ],
)
def test_case_48_a_digest_is_read_or_refused(
    cell: str, status: str, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", CONTENT)], "md5": [cell]}, index=["subject 7"])
    frame = fetched(table, tmp_path)
    assert frame["status"].tolist() == [status]
    if status == "invalid":
        assert "md5" in frame["error"].iloc[0]
        assert cell in frame["error"].iloc[0]
    else:
        assert frame["verified"].tolist() == ["digest"]
    assert warehouse.count() == (status == "downloaded")
    note("48", f"md5 given as {cell.strip()[:24]!r}", status, warehouse.count())


def test_case_60_redirects_end(warehouse: WarehouseThread, tmp_path: Path, note: Note) -> None:
    for at in range(12):
        warehouse.add(f"/chain{at}.nwb", CONTENT)
        warehouse.script(f"/chain{at}.nwb", Reply(302, headers={"Location": f"/chain{at + 1}.nwb"}))
    for name, other in (("a", "b"), ("b", "a")):
        warehouse.add(f"/{name}.nwb", CONTENT)
        warehouse.script(f"/{name}.nwb", Reply(307, headers={"Location": f"/{other}.nwb"}))
    warehouse.script("/chain11.nwb", Serve())
    urls = [warehouse.url("/a.nwb"), warehouse.url("/chain0.nwb"), warehouse.url("/chain1.nwb")]
    frame = fetched(pd.DataFrame({"url": urls}), tmp_path)
    assert frame["error_type"].tolist()[:2] == ["RedirectError"] * 2
    assert frame["error"][0].startswith(f"a loop: {urls[0]} -> ")
    assert "more than 10 redirects" in frame["error"][1]
    assert frame["status"][2] == "downloaded", "ten are allowed"
    # A second visit is allowed: a login may send back to where it was asked for.
    assert warehouse.count("/a.nwb") == warehouse.count("/b.nwb") == 2
    assert warehouse.count("/chain11.nwb") == 1
    note("60", "a loop of redirects", "RedirectError", 4)
    note("60", "a chain of eleven", "RedirectError", 11)


def test_case_61_nothing_of_ours_reaches_another_origin(warehouse: WarehouseThread, tmp_path: Path, note: Note) -> None:
    """An origin is scheme, host and port: the same machine at another port is somebody else."""
    with WarehouseThread() as other:
        target = other.add("/f.nwb", CONTENT)
        warehouse.add("/here.nwb", CONTENT)
        warehouse.add("/there.nwb", CONTENT)
        warehouse.script("/here.nwb", Reply(302, headers={"Location": "/there.nwb", "Set-Cookie": "session=s3cret"}))
        warehouse.script("/there.nwb", Reply(302, headers={"Location": target}))
        url = warehouse.url("/here.nwb").replace("http://", "http://user:s3cret@")
        headers = {"Authorization": "Bearer s3cret", "X-Api-Key": "s3cret", "Cookie": "a=s3cret"}
        frame = fetched(pd.DataFrame({"url": [url]}), tmp_path, replace(EAGER, headers=headers))
        assert frame["status"].tolist() == ["downloaded"]
        at_home = warehouse.requests("/there.nwb")[0]
        assert "s3cret" in str(at_home.headers), "our own origin gets them after a redirect, too"
        (abroad,) = other.requests()
        assert "s3cret" not in str(abroad.headers)
        assert {name.lower() for name, _ in abroad.headers} <= {"host", "user-agent", "accept", "accept-encoding"}
        note("61", "a redirect to another port", "downloaded", warehouse.count() + other.count())


@pytest.mark.parametrize(
    "damage",
    ["\r\nX-Injected: 1", "\n", "\t", "\0", "\x7f", "\u200b", "\u2028", "\ud800"],
    ids=["CR LF", "LF", "tab", "NUL", "DEL", "zero width space", "line separator", "lone surrogate"],
)
def test_case_68_control_characters_are_refused(
    damage: str, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    url = warehouse.add("/some/f.nwb", CONTENT)
    frame = fetched(
        pd.DataFrame({"url": [url.replace("/some", f"/so{damage}me"), f"\t {url}\r\n"]}, dtype=object), tmp_path
    )
    assert frame["status"].tolist() == ["invalid", "downloaded"], "what stands around an address is no part of it"
    assert "url" in frame["error"][0]
    (record,) = warehouse.requests()
    assert record.target == "/some/f.nwb"
    assert "Injected" not in str(record.headers)
    note("68", f"{damage!r} in an address", "invalid", 0)


def test_case_72_an_honest_slow_link(warehouse: WarehouseThread, tmp_path: Path, note: Note) -> None:
    """Slower than the stall timeout allows for the whole, faster than the minimum: there is no total timeout."""
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", CONTENT)]})
    warehouse.script("/f.nwb", Serve(pace=rate(16_000)))
    timeouts = Timeouts(connect=2.0, stall=0.3, speed_window=0.3, minimum_speed=4_000)
    frame = fetched(table, tmp_path, replace(EAGER, timeouts=timeouts))
    assert frame["status"].tolist() == ["downloaded"], frame["error"][0]
    assert frame["seconds"][0] > 0.9, "it was slow"
    assert warehouse.count() == 1
    note("72", "20 kB at 16 kB/s, minimum 4 kB/s", "downloaded", 1)
