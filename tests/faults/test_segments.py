"""Section B of the catalogue, one file over several connections: never a mosaic, never slower than one."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from framefetch import Limits, MetadataCache, Options, RetryPolicy, TransferOptions
from framefetch.warehouse import Reply, RequestRecord, Serve, Stop, WarehouseThread, hdf5_file, rate

MIB = 1 << 20
BODY, OTHER = hdf5_file(32 * MIB, seed=1), hdf5_file(32 * MIB, seed=2)
EAGER = Options(retry=RetryPolicy(base=0.001, cap=0.002), limits=Limits(per_host=8))
#: A server that caps each connection.
PACE = rate(40 * MIB)


def fetched(warehouse: WarehouseThread, folder: Path, options: Options = EAGER, **columns: Any) -> pd.DataFrame:
    """Fetch the file of the test; return the result's frame, after an audit of every byte."""
    table = pd.DataFrame({"url": [warehouse.url("/f.nwb")], **columns})
    with MetadataCache(table, folder, options=options) as cache:
        frame = cache.mirror(table).frame
        assert cache.verify("hash") == []
    return frame


def ranges(warehouse: WarehouseThread) -> list[str]:
    """Return the ranges that were asked for."""
    return [record.header("Range") or "all" for record in warehouse.requests("/f.nwb")]


def test_a_server_that_caps_each_connection_is_asked_over_several(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    warehouse.add("/f.nwb", BODY)
    warehouse.script("/f.nwb", Serve(pace=PACE))
    frame = fetched(warehouse, tmp_path / "cache")
    assert (tmp_path / "cache" / "v0" / "f.nwb").read_bytes() == BODY
    assert frame["md5"][0] == hashlib.md5(BODY).hexdigest()
    asked = ranges(warehouse)
    assert asked[0] == "all"
    assert len(asked) > 2
    assert all(record.header("If-Range") for record in warehouse.requests("/f.nwb")[1:])
    spans = sorted(tuple(map(int, text.removeprefix("bytes=").split("-"))) for text in asked[1:])
    assert all(one[1] < other[0] for one, other in itertools.pairwise(spans)), "no byte is asked for twice"
    assert not list((tmp_path / "cache" / ".framefetch" / "parts").iterdir())
    note("37", "a cap on each connection: ranges side by side", "downloaded", len(asked))


@pytest.mark.parametrize("why", ["segments=1", "no slot", "a row waits", "no validator", "weak tag, fresh date"])
def test_one_connection_where_more_would_be_wrong(why: str, warehouse: WarehouseThread, tmp_path: Path) -> None:
    headers = {"ETag": None, "Last-Modified": None} if why == "no validator" else {}
    if why == "weak tag, fresh date":
        headers = {
            "ETag": 'W/"x"',
            "Last-Modified": "Mon, 23 Nov 2026 05:59:50 GMT",
            "Date": "Mon, 23 Nov 2026 06:00:00 GMT",
        }
    warehouse.add("/f.nwb", BODY)
    warehouse.script("/f.nwb", Serve(pace=PACE, headers=headers))
    options = Options(
        limits=Limits(per_host=1 if why == "no slot" else 8),
        transfer=TransferOptions(segments=1 if why == "segments=1" else 16),
    )
    if why == "a row waits":
        options = Options(limits=Limits(per_host=2))
        urls = [warehouse.url("/f.nwb"), *(warehouse.add(f"/{at}.nwb", hdf5_file(9 * MIB, seed=at)) for at in range(3))]
        warehouse.script_all(Serve(pace=PACE))
        warehouse.script("/f.nwb", Serve(pace=rate(64 * MIB)))
        table = pd.DataFrame({"url": urls})
        with MetadataCache(table, tmp_path / "cache", options=options) as cache:
            assert cache.mirror(table).ok.all()
    else:
        fetched(warehouse, tmp_path / "cache", options)
    assert ranges(warehouse) == ["all"]


@pytest.mark.parametrize("where", ["the same host", "another host"])
def test_a_row_that_is_due_again_gets_a_slot_that_a_large_file_has_borrowed(
    where: str, warehouse: WarehouseThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second request comes while the large file is under way: connections end with their ranges."""
    for room in ("segments", "parallel"):
        monkeypatch.setattr(f"framefetch.engine.{room}.SMALLEST", MIB)
    monkeypatch.setattr("framefetch.engine.segments.LARGEST", MIB)
    monkeypatch.setattr("framefetch.engine.limits.START", 2)
    with WarehouseThread() as elsewhere:
        beside = warehouse if where == "the same host" else elsewhere
        urls = [warehouse.add("/f.nwb", BODY), beside.add("/cut.nwb", hdf5_file(3 * MIB, seed=3))]
        warehouse.script("/f.nwb", Serve(pace=rate(8 * MIB)))
        # On the same host, of which more than two are asked for by then, it is cut; elsewhere its slot is taken
        # meanwhile.
        busy = Reply(503, headers={"Retry-After": "1"})
        cut = Serve(stop=Stop(2 * MIB), pace=rate(3 * MIB), headers={"ETag": None, "Last-Modified": None})
        beside.script("/cut.nwb", cut if where == "the same host" else busy, then=Serve())
        limits = Limits(per_host=8) if where == "the same host" else Limits(connections=2)
        options = Options(retry=RetryPolicy(base=0.001, cap=0.002), limits=limits)
        table = pd.DataFrame({"url": urls})
        with MetadataCache(table, tmp_path / "cache", options=options) as cache:
            assert cache.mirror(table).ok.all()
            assert cache.verify("hash") == []
        assert len(ranges(warehouse)) > 2, "the large file was fetched over several"
        first, second = beside.requests("/cut.nwb")
        last = warehouse.requests("/f.nwb")[-1]
        assert first.answered_at < second.received_at < last.received_at


CHANGED = {"content": OTHER, "headers": {"ETag": '"other"'}}


@pytest.mark.parametrize(
    ("number", "fault", "answers", "gets"),
    [
        ("37", "ranges ignored", [Serve(pace=PACE), Serve(ranges="ignore", pace=PACE)], BODY),
        ("37", "ranges refused", [Serve(pace=PACE), Serve(ranges="refuse")], BODY),
        ("21", "multipart for a range", [Serve(pace=PACE), Serve(ranges="multipart")], BODY),
        ("20", "ranges from elsewhere", [Serve(pace=PACE), Serve(shift=100)], BODY),
        ("38", "ranges with a coding", [Serve(pace=PACE), Serve(headers={"Content-Encoding": "gzip"})], BODY),
        ("36", "503 to every second connection", [Serve(pace=PACE), Reply(503)], BODY),
        ("36", "a reset to every second connection", [Serve(pace=PACE), Serve(stop=Stop(0, "reset", of="wire"))], BODY),
        ("35", "403 to one range", [Serve(pace=PACE), Serve(pace=PACE), Reply(403), Serve(pace=PACE)], BODY),
        (
            "35",
            "404 to one range",
            [Serve(pace=PACE), Serve(pace=PACE), Serve(pace=PACE), Reply(404), Serve(pace=PACE)],
            BODY,
        ),
        (
            "35",
            "a page with 200 to one range",
            [Serve(pace=PACE), Serve(pace=PACE), Reply(200, b"<html>busy</html>"), Serve(pace=PACE)],
            BODY,
        ),
        (
            "70",
            "one range breaks off",
            [Serve(pace=PACE), Serve(pace=PACE), Serve(pace=PACE, stop=Stop(MIB)), Serve(pace=PACE)],
            BODY,
        ),
        ("1", "the first body breaks off", [Serve(pace=PACE, stop=Stop(10 * MIB)), Serve(pace=PACE)], BODY),
        ("1", "the first body breaks off at once", [Serve(pace=PACE, stop=Stop(3 * MIB)), Serve(pace=PACE)], BODY),
        (
            "27",
            "another version from the first range on",
            [Serve(pace=PACE), Serve(**CHANGED, ignore_if_range=True, pace=PACE)],
            None,
        ),
        (
            "27",
            "another version from the second range on",
            [Serve(pace=PACE), Serve(pace=PACE), Serve(**CHANGED, ignore_if_range=True, pace=PACE)],
            OTHER,
        ),
        (
            "27",
            "another version, If-Range ignored, no tag in any 206",
            [Serve(pace=PACE), *[Serve(content=OTHER, headers={"ETag": None}, ignore_if_range=True, pace=PACE)] * 12],
            BODY,
        ),
        (
            "27",
            "another version, If-Range honoured",
            [Serve(pace=PACE), Serve(pace=PACE), Serve(**CHANGED, pace=PACE)],
            OTHER,
        ),
        (
            "27",
            "two versions in turn",
            [Serve(pace=PACE), Serve(**CHANGED, ignore_if_range=True, pace=PACE)] * 3 + [Serve()],
            None,
        ),
    ],
)
def test_case(
    number: str, fault: str, answers: list[Any], gets: bytes | None,
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None],
) -> None:  # fmt: skip
    warehouse.add("/f.nwb", BODY)
    warehouse.script("/f.nwb", *answers)
    frame = fetched(warehouse, tmp_path / "cache")
    assert frame["status"][0] == "downloaded", frame["error"][0]
    found = (tmp_path / "cache" / "v0" / "f.nwb").read_bytes()
    assert found in ((BODY, OTHER) if gets is None else (gets,)), "one version, whole"
    assert not list((tmp_path / "cache" / ".framefetch" / "parts").iterdir())
    note(number, fault, "downloaded", warehouse.count("/f.nwb"))


@pytest.mark.parametrize(("surplus", "whole"), [(b"", 1), (b"x", 2)])
def test_ranges_without_a_length_bring_what_they_say(
    surplus: bytes, whole: int, warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    """One that brings more than its Content-Range says is not what was asked for, so nothing beside it is believed."""

    tag = {"ETag": '"v1"'}
    paced = Serve(pace=PACE, headers=tag)

    def answer(record: RequestRecord) -> Reply:
        first, last = map(int, record.header("Range").removeprefix("bytes=").split("-"))
        headers = {**tag, "Content-Range": f"bytes {first}-{last}/{len(BODY)}"}
        return Reply(206, BODY[first : last + 1] + surplus, headers=headers, framing="chunked")

    warehouse.add("/f.nwb", BODY)
    warehouse.script("/f.nwb", paced, paced, answer, then=paced)
    frame = fetched(warehouse, tmp_path / "cache")
    assert (tmp_path / "cache" / "v0" / "f.nwb").read_bytes() == BODY
    assert frame["verified"].tolist() == ["length"]
    assert ranges(warehouse).count("all") == whole
    note("21", f"a range without a length and {len(surplus)} bytes more", "downloaded", warehouse.count("/f.nwb"))


def test_a_wrong_range_under_the_same_tag_is_found_by_the_digest(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    """Only a stated digest can tell (case 30 without one); then one stream is used."""
    warehouse.add("/f.nwb", BODY)
    tag = {"ETag": '"same"'}
    liar = Serve(content=OTHER, headers=tag, ignore_if_range=True, pace=PACE)
    warehouse.script("/f.nwb", Serve(pace=PACE, headers=tag), *[liar] * 12)
    frame = fetched(warehouse, tmp_path / "cache", md5=[hashlib.md5(BODY).hexdigest()])
    assert frame["error_type"][0] == "DigestMismatch"
    assert "all" in ranges(warehouse)[1:], "begun anew over one connection"
    assert not (tmp_path / "cache" / "v0" / "f.nwb").exists()
    note("27", "another version under the same tag, md5 stated", "DigestMismatch", warehouse.count("/f.nwb"))
