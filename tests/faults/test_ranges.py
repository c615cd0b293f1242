"""Section B of the catalogue: ranges and resume. Never a byte of another version, never one twice."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from framefetch import MetadataCache, Options, RetryPolicy
from framefetch.warehouse import Chunked, Reply, Serve, Stop, WarehouseThread, hdf5_file

EAGER = Options(retry=RetryPolicy(base=0.001, cap=0.002))
MIB = 1 << 20
ONCE = Options(retry=RetryPolicy(attempts=1))
SMALL, LARGE = hdf5_file(40_000, seed=1), hdf5_file(3_000_000, seed=2)
CHANGED = {len(SMALL): hdf5_file(40_000, seed=11), len(LARGE): hdf5_file(3_000_000, seed=12)}
LONGER = hdf5_file(3_100_000, seed=13)
NO_VALIDATOR: dict[str, str | None] = {"ETag": None, "Last-Modified": None}
WEAK: dict[str, str | None] = {"ETag": 'W/"weak"'}
BARE: dict[str, str | None] = {"ETag": "2b-5f"}
DATE: dict[str, str | None] = {"ETag": None}
TAG: dict[str, str | None] = {"ETag": '"v1"'}
LATER: dict[str, str | None] = {"ETag": None, "Last-Modified": "Mon, 05 Oct 2020 10:00:00 GMT"}


def fresh() -> dict[str, str | None]:
    """Return headers of a file that was changed this very second."""
    return {"ETag": None, "Last-Modified": formatdate(usegmt=True), "Date": formatdate(usegmt=True)}


@dataclass(frozen=True)
class Case:
    """Answers after one that breaks off half way, and what must come of them."""

    number: str
    fault: str
    answers: tuple[Any, ...]
    #: What each request asked for: "all", or "rest" of what had come.
    asked: tuple[str, ...]
    outcome: str = "downloaded"
    first: dict[str, Any] = field(default_factory=dict)
    states: str = ""
    gets: str = "same"


SAME = Serve()
CASES = [
    Case("1", "cut short, then the rest", (SAME,), ("all", "rest")),
    Case("2", "reset, then the rest", (SAME,), ("all", "rest"), first={"reset": True}),
    Case("18", "200 to a Range", (Serve(ranges="ignore"),), ("all", "rest")),
    Case("20", "206 from earlier, then honest", (Serve(shift=-100), SAME), ("all", "rest", "all")),
    Case("20", "206 from later, then honest", (Serve(shift=100), SAME), ("all", "rest", "all")),
    Case("21", "206 without Content-Range", (Serve(content_range=None), SAME), ("all", "rest", "all")),
    Case("21", "206 with words", (Serve(content_range="bytes all of it"), SAME), ("all", "rest", "all")),
    Case(
        "21", "206 in another unit", (Serve(content_range="lines {first}-{last}/{total}"), SAME), ("all", "rest", "all")
    ),
    Case("21", "multipart/byteranges", (Serve(ranges="multipart"), SAME), ("all", "rest", "all")),
    Case(
        "21",
        "206 that says less than it sends",
        (Serve(content_range="bytes {first}-{first}/{total}"), SAME),
        ("all", "rest", "all"),
    ),
    Case(
        "22",
        "206 of another total",
        (Serve(content_range="bytes {first}-{last}/99999999"), SAME),
        ("all", "rest", "all"),
    ),
    Case("26", "changed: If-Range makes it 200", (Serve(content="changed"),), ("all", "rest"), gets="changed"),
    Case(
        "26",
        "changed: If-Range ignored",
        (Serve(content="changed", ignore_if_range=True), Serve(content="changed")),
        ("all", "rest", "all"),
        gets="changed",
    ),
    Case("28", "weak tag, old date: by the date", (Serve(headers=WEAK),), ("all", "rest"), first={"headers": WEAK}),
    Case(
        "28",
        "weak tag, fresh date",
        (Serve(headers={**fresh(), **WEAK}),),
        ("all", "all"),
        first={"headers": {**fresh(), **WEAK}},
    ),
    *(
        Case(
            number,
            f"changed: If-Range ignored, {told} tells",
            (Serve(content="changed", headers=new, ignore_if_range=True), Serve(content="changed", headers=new)),
            ("all", "rest", "all"),
            first={"headers": old},
            gets="changed",
        )
        for number, told, old, new in [
            ("26", "a date", DATE, LATER),
            ("28", "a weak tag", WEAK, {"ETag": 'W/"other"'}),
            ("28", "a tag without quotes", BARE, {"ETag": "2b-60"}),
        ]
    ),
    Case(
        "28",
        "the same tag, weak and then strong",
        (Serve(headers={"ETag": '"weak"'}, ignore_if_range=True),),
        ("all", "rest"),
        first={"headers": WEAK},
    ),
    Case("29", "no validator", (Serve(headers=NO_VALIDATOR),), ("all", "all"), first={"headers": NO_VALIDATOR}),
    Case(
        "29",
        "no validator, md5 stated",
        (Serve(headers=NO_VALIDATOR),),
        ("all", "rest"),
        first={"headers": NO_VALIDATOR},
        states="md5",
    ),
    Case(
        "29",
        "no validator, md5 stated, changed",
        (Serve(content="changed", headers=NO_VALIDATOR), SAME),
        ("all", "rest", "all"),
        first={"headers": NO_VALIDATOR},
        states="md5",
    ),
    Case(
        "30",
        "changed within the second, md5 stated",
        (Serve(content="changed", headers={"ETag": None}, ignore_if_range=True), SAME),
        ("all", "rest", "all"),
        first={"headers": {"ETag": None}},
        states="md5",
    ),
    Case(
        "26",
        "changed: If-Range ignored, no tag in the 206",
        (
            Serve(content="changed", headers={"ETag": None}, ignore_if_range=True),
            Serve(content="changed"),
        ),
        ("all", "rest", "all"),
        gets="changed",
    ),
    Case(
        "26",
        "no tag in the 206, md5 stated",
        (Serve(headers={"ETag": None}, ignore_if_range=True),),
        ("all", "rest"),
        states="md5",
    ),
    Case("31", "all had come: 416 says so", (SAME,), ("all", "rest"), first={"whole": True}),
    Case(
        "32",
        "416 without a size, then honest",
        (Serve(ranges="refuse", content_range=None), SAME),
        ("all", "rest", "all"),
    ),
    Case("32", "416 of a shorter file, then honest", (Serve(ranges="refuse"), SAME), ("all", "rest", "all")),
    Case(
        "38",
        "206 with a coding, then honest",
        (Serve(headers={"Content-Encoding": "gzip"}), SAME),
        ("all", "rest", "all"),
    ),
    Case("14", "304 to If-Range, then honest", (Reply(304), SAME), ("all", "rest", "all")),
    Case("14", "412 to If-Range, then honest", (Reply(412), SAME), ("all", "rest", "all")),
    Case("53", "503 between", (Reply(503), SAME), ("all", "rest", "rest")),
]


def breaking(case: Case, body: bytes) -> Serve:
    """Return the first answer: half of the body, or all of it without its end."""
    more = {"headers": case.first.get("headers", {})}
    if case.first.get("whole"):
        return Serve(framing=Chunked(last=b""), end="close", **more)
    return Serve(stop=Stop(len(body) // 2, "reset" if case.first.get("reset") else "close"), **more)


def replaced(answer: Any, body: bytes) -> Any:
    """Return an answer whose content is another version, where it says so."""
    if not isinstance(answer, Serve) or answer.content != "changed":
        return answer
    etag = {} if "ETag" in dict(answer.headers) else {"ETag": '"another"'}
    return Serve(
        content=CHANGED[len(body)], headers={**dict(answer.headers), **etag}, ignore_if_range=answer.ignore_if_range
    )


def wanted(warehouse: WarehouseThread) -> list[str]:
    """Return for each request whether it asked for all or for the rest."""
    return ["all" if record.header("Range") is None else "rest" for record in warehouse.requests("/f.nwb")]


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number}-{case.fault.replace(' ', '-')}")
def test_case(case: Case, body: bytes, warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", body)]})
    if case.states:
        table[case.states] = [hashlib.md5(body).hexdigest()]
    warehouse.script("/f.nwb", breaking(case, body), *(replaced(answer, body) for answer in case.answers))
    with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
        frame = cache.mirror(table).frame
        assert cache.verify("hash") == []
    assert frame["status"][0] == case.outcome, frame["error"][0]
    right = body if case.gets == "same" else CHANGED[len(body)]
    assert (tmp_path / "cache" / "v0" / "f.nwb").read_bytes() == right
    assert frame["md5"][0] == hashlib.md5(right).hexdigest()
    assert wanted(warehouse) == list(case.asked)
    for record in warehouse.requests("/f.nwb"):
        assert not (record.header("If-Range") or "").startswith("W/")
        if case.first.get("headers") is NO_VALIDATOR:
            assert record.header("If-Range") is None
    assert not list((tmp_path / "cache" / ".framefetch" / "parts").iterdir())
    if body is LARGE:
        note(case.number, case.fault, case.outcome, warehouse.count("/f.nwb"))


@pytest.mark.parametrize(
    ("number", "answer", "error"),
    [
        ("20", {"shift": 7}, "RangeMismatch"),
        ("21", {"content_range": None}, "RangeMismatch"),
        ("22", {"content_range": "bytes {first}-{last}/99999999"}, "ChangedMidway"),
    ],
)
def test_what_is_wrong_twice_fails(
    number: str,
    answer: dict[str, Any],
    error: str,
    warehouse: WarehouseThread,
    tmp_path: Path,
    note: Callable[..., None],
) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", LARGE)]})
    cut = Serve(stop=Stop(1_500_000))
    warehouse.script("/f.nwb", cut, Serve(**answer), cut, Serve(**answer))
    with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
        frame = cache.mirror(table).frame
    assert (frame["status"][0], frame["error_type"][0]) == ("failed", error)
    assert wanted(warehouse) == ["all", "rest", "all", "rest"]
    assert not (tmp_path / "cache" / "v0").exists() or not list((tmp_path / "cache" / "v0").iterdir())
    assert not list((tmp_path / "cache" / ".framefetch" / "parts").iterdir())
    note(number, f"for ever: {answer}", error, 4)


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("told", [True, False], ids=["with Content-Range", "by its length alone"])
def test_a_200_that_brings_only_the_rest_is_not_the_file(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None], told: bool, body: bytes
) -> None:
    half = len(body) // 2
    fields = {"ETag": '"v1"'} | ({"Content-Range": f"bytes {half}-{len(body) - 1}/{len(body)}"} if told else {})
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", body)]})
    cut = Serve(stop=Stop(half), headers={"ETag": '"v1"'})
    warehouse.script("/f.nwb", cut, Reply(200, body[half:], headers=fields), then=Serve())
    frame = go_on(tmp_path / "cache", table)
    assert Path(frame["path"][0]).read_bytes() == body
    assert wanted(warehouse) == ["all", "rest", "all"]
    note("18", f"200 with the rest only, told: {told}", "downloaded", 3)


@pytest.mark.parametrize(
    ("says", "status"),
    [
        ("bytes 0-{last}/{total}", "downloaded"),
        ("bytes 0-{last}/{more}", "failed"),
        ("bytes 0-{last}/*", "failed"),
        ("bytes 1-{total}/{more}", "failed"),
        ("lines 0-{last}/{total}", "failed"),
    ],
)
def test_a_200_that_was_not_asked_for_a_range_must_not_be_one(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None], says: str, status: str
) -> None:
    """The first files of a host go over the loop, the others over the thread for small ones: neither takes it."""
    said = says.format(last=len(SMALL) - 1, total=len(SMALL), more=len(SMALL) + 1)
    table = pd.DataFrame({"url": [warehouse.add(f"/{number}.nwb", SMALL) for number in range(60)]})
    odd = {f"/{number}.nwb" for number in (0, 50)}
    for target in odd:
        warehouse.script(target, then=Serve(headers={"Content-Range": said}))
    with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
        frame = cache.mirror(table).frame
    assert frame["status"].tolist() == [status if number in (0, 50) else "downloaded" for number in range(60)]
    if status == "failed":
        assert set(frame["error_type"][[0, 50]]) == {"RangeMismatch"}
        assert {warehouse.count(target) for target in odd} == {2}
    note("18", f"200 with Content-Range {says}", status, 2)


def test_progress_begins_the_count_anew_up_to_four_times_the_attempts(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", LARGE), warehouse.add("/g.nwb", LARGE)]})
    warehouse.script("/f.nwb", Serve(stop=Stop(300_000)))
    warehouse.script("/g.nwb", Serve(stop=Stop(100_000)))
    options = Options(retry=RetryPolicy(attempts=4, base=0.001, cap=0.002))
    with MetadataCache(table, tmp_path / "cache", options=options) as cache:
        frame = cache.mirror(table).frame
    assert frame["status"].tolist() == ["downloaded", "failed"]
    assert warehouse.count("/f.nwb") == -(-len(LARGE) // 300_000)
    assert warehouse.count("/g.nwb") == 16
    assert (tmp_path / "cache" / "v0" / "f.nwb").read_bytes() == LARGE
    note("70", "a tenth at a time", "downloaded", warehouse.count("/f.nwb"))


# -- across runs -----------------------------------------------------------------------------------------------------


def cut_run(warehouse: WarehouseThread, folder: Path, table: pd.DataFrame, *, after: int = 2_000_000) -> Path:
    """Let a run fail half way; return the part it leaves."""
    warehouse.script("/f.nwb", Serve(stop=Stop(after)), then=Serve())
    with MetadataCache(table, folder, options=ONCE) as cache:
        assert cache.mirror(table).frame["status"].tolist() == ["failed"]
    (part,) = [path for path in (folder / ".framefetch" / "parts").iterdir() if path.suffix == ""]
    assert part.read_bytes() == LARGE[:after]
    return part


def go_on(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Run again, with retries, and return what came of it."""
    with MetadataCache(table, folder, options=EAGER) as cache:
        frame = cache.mirror(table).frame
        assert cache.verify("hash") == []
    assert not list((folder / ".framefetch" / "parts").iterdir())
    return frame


def flip(part: Path) -> None:
    data = bytearray(part.read_bytes())
    data[1_000_000] ^= 1
    part.write_bytes(data)


def zeros(part: Path) -> None:
    data = part.read_bytes()
    part.write_bytes(data[:1_000_000] + bytes(len(data) - 1_000_000))


def foreign(part: Path) -> None:
    part.unlink()
    part.symlink_to("/etc/hostname")


def unreadable(part: Path) -> None:
    Path(f"{part}.json").write_text("{")


def somebody_else(part: Path) -> None:
    sidecar = Path(f"{part}.json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "key": "http://elsewhere/f.nwb"}))


def header_in_a_tag(part: Path) -> None:
    sidecar = Path(f"{part}.json")
    found = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**found, "entity": {**found["entity"], "etag": '"a"\r\nX-Evil: 1'}}))


@pytest.mark.parametrize(
    ("number", "fault", "harm", "asked"),
    [
        ("1", "the next run goes on", lambda part: None, ["bytes=2000000-"]),
        ("33", "bytes flipped between runs", flip, [None]),
        (
            "33",
            "bytes appended between runs",
            lambda part: part.write_bytes(part.read_bytes() + b"junk"),
            ["bytes=2000000-"],
        ),
        ("33", "bytes missing between runs", lambda part: part.write_bytes(part.read_bytes()[:99]), [None]),
        ("34", "zeros where bytes were", zeros, [None]),
        ("91", "a link in the part's place", foreign, [None]),
        ("34", "sidecar torn", unreadable, [None]),
        ("34", "sidecar gone", lambda part: Path(f"{part}.json").unlink(), [None]),
        ("34", "sidecar of another file", somebody_else, [None]),
        ("34", "a header smuggled into the sidecar", header_in_a_tag, [None]),
    ],
)
def test_a_part_is_believed_as_far_as_it_proves(
    number: str, fault: str, harm: Callable[[Path], None], asked: list[str | None],
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None],
) -> None:  # fmt: skip
    folder = tmp_path / "cache"
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", LARGE)]})
    harm(cut_run(warehouse, folder, table))
    frame = go_on(folder, table)
    assert frame["status"].tolist() == ["downloaded"]
    assert (folder / "v0" / "f.nwb").read_bytes() == LARGE
    assert [record.header("Range") for record in warehouse.requests("/f.nwb")[1:]] == asked
    assert Path("/etc/hostname").exists()
    note(number, fault, "downloaded", warehouse.count("/f.nwb"))


def test_a_file_that_changed_between_runs_is_fetched_whole(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    folder = tmp_path / "cache"
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", LARGE)]})
    cut_run(warehouse, folder, table)
    warehouse.add("/f.nwb", LONGER)
    assert go_on(folder, table)["size"].tolist() == [len(LONGER)]
    assert (folder / "v0" / "f.nwb").read_bytes() == LONGER
    assert warehouse.count("/f.nwb") == 2, "If-Range let the server send the whole at once"
    note("26", "changed between two runs", "downloaded", 2)


def test_a_table_that_states_another_digest_takes_nothing_over(warehouse: WarehouseThread, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", LARGE)]})
    flip(cut_run(warehouse, folder, table))
    table["md5"] = [hashlib.md5(LARGE).hexdigest()]
    assert go_on(folder, table)["verified"].tolist() == ["digest"]


def test_another_mirror_is_not_asked_by_the_first_ones_tag(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    with WarehouseThread() as other:
        urls = f"{warehouse.add('/f.nwb', LARGE)} {other.add('/f.nwb', LARGE)}"
        warehouse.script("/f.nwb", Serve(stop=Stop(2_000_000)))
        for states, asked in ((None, None), (hashlib.md5(LARGE).hexdigest(), "bytes=2000000-")):
            table = pd.DataFrame({"url": [urls], "md5": [states]})
            with MetadataCache(table, tmp_path / f"cache{states}", options=EAGER) as cache:
                assert cache.mirror(table).frame["status"].tolist() == ["downloaded"]
            record = other.requests("/f.nwb")[-1]
            assert (record.header("Range"), record.header("If-Range")) == (asked, None)
            assert (tmp_path / f"cache{states}" / "v0" / "f.nwb").read_bytes() == LARGE
    note("27", "the rest from another mirror", "downloaded", 2)


@pytest.mark.parametrize("size", [len(SMALL), len(LARGE)])
@pytest.mark.parametrize("fault", ["another mirror", "no tag in the 206"])
def test_what_only_a_digest_bound_together_is_gone_on_with_only_by_who_states_one(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None], fault: str, size: int
) -> None:
    """The beginning is of one version, the rest of another: whoever has no digest would hold a mosaic of the two."""
    body, changed = {len(SMALL): SMALL, len(LARGE): LARGE}[size], CHANGED[size]
    third = size // 3
    folder = tmp_path / "cache"
    with WarehouseThread() as other:
        urls = warehouse.add("/f.nwb", body, etag='"v1"')
        more = {"headers": {"ETag": None}, "ignore_if_range": True} if fault == "no tag in the 206" else {}
        brings = Serve(content=changed, stop=Stop(third), **more)
        server = warehouse
        if fault == "another mirror":
            server = other
            urls += " " + other.add("/f.nwb", changed, etag='"v2"')
            warehouse.script("/f.nwb", Serve(stop=Stop(third)), then=Reply(404))
            other.script("/f.nwb", brings, then=Reply(404))
        else:
            warehouse.script("/f.nwb", Serve(stop=Stop(third)), brings, then=Reply(404))
        stated = pd.DataFrame({"url": [urls], "md5": [hashlib.md5(changed).hexdigest()]})
        with MetadataCache(stated, folder, options=EAGER) as cache:
            assert cache.mirror(stated).frame["status"].tolist() == ["failed"]
        (part,) = [path for path in (folder / ".framefetch" / "parts").iterdir() if path.suffix == ""]
        assert part.read_bytes() == body[:third] + changed[third : 2 * third]
        server.script("/f.nwb", then=Serve(content=changed))
        frame = go_on(folder, stated[["url"]])
        assert Path(frame["path"][0]).read_bytes() == changed
        assert [record.header("Range") for record in server.requests("/f.nwb")[-1:]] == [None]
    note("27", f"digest dropped between two runs, {fault}", "downloaded", server.count("/f.nwb"))


PAGE = b"<!DOCTYPE html><title>Log in</title>".ljust(len(LARGE))
#: As NWB files with a user block begin, whose format shows itself late.
LATE = bytes(2 * MIB) + LARGE[:MIB]


@pytest.mark.parametrize(
    ("begun", "came", "is_kept"),
    [
        (PAGE, 100_000, False),
        (PAGE, 2_500_000, False),
        (LATE, 300, True),
        (LATE, 1_500_000, True),
        (LATE, 2_500_000, True),
    ],
)
def test_what_only_a_digest_had_judged_is_looked_at_before_it_is_gone_on_with(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None], begun: bytes, came: int, is_kept: bool
) -> None:
    folder = tmp_path / "cache"
    right = begun if is_kept else LARGE
    stated = pd.DataFrame({"url": [warehouse.add("/f.nwb", begun)], "md5": [hashlib.md5(right).hexdigest()]})
    warehouse.script("/f.nwb", Serve(stop=Stop(max(came, 10_000))), then=Serve())
    with MetadataCache(stated, folder, options=ONCE) as cache:
        assert cache.mirror(stated).frame["status"].tolist() == ["failed"]
    warehouse.add("/f.nwb", right)
    assert Path(go_on(folder, stated[["url"]])["path"][0]).read_bytes() == right
    asked = f"bytes={max(came, 10_000)}-" if is_kept else None
    assert [record.header("Range") for record in warehouse.requests("/f.nwb")] == [None, asked]
    note("45", f"a login page's first {came} bytes, then no digest: {is_kept}", "downloaded", 2)


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_bodies_of_unknown_length_around_the_size_of_a_block(
    warehouse: WarehouseThread, tmp_path: Path, framing: str
) -> None:
    """What fits a block is saved from memory, what does not begins there and goes on in a part: no byte between."""
    contents = {f"/{size}.nwb": hdf5_file(size) for size in (3000, MIB - 1, MIB, MIB + 1, 3 * MIB + 7)}
    table = pd.DataFrame({"url": [warehouse.add(target, content) for target, content in contents.items()]})
    for target in contents:
        warehouse.script(target, Serve(framing=framing))
    frame = go_on(tmp_path / "cache", table)
    assert frame["verified"].tolist() == ["none"] * len(contents)
    assert [Path(path).read_bytes() for path in frame["path"]] == list(contents.values())
    assert warehouse.count() == len(contents)
    assert [name for name in os.listdir(tmp_path / "cache/.framefetch/parts") if "journal" not in name] == []


@pytest.mark.parametrize(("came", "asked"), [(500_000, "bytes=500000-"), (2_000_000, "bytes=2000000-"), (5_000, None)])
def test_a_body_of_unknown_length_that_breaks_off_is_gone_on_with(
    warehouse: WarehouseThread, tmp_path: Path, came: int, asked: str | None
) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", LARGE)], "md5": [hashlib.md5(LARGE).hexdigest()]})
    warehouse.script("/f.nwb", Serve(framing=Chunked(1000), stop=Stop(came)), then=Serve())
    frame = go_on(tmp_path / "cache", table)
    assert frame["verified"].tolist() == ["digest"]
    assert Path(frame["path"][0]).read_bytes() == LARGE
    assert [record.header("Range") for record in warehouse.requests("/f.nwb")] == [None, asked]


@pytest.mark.parametrize("framing", ["close", "chunked"])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("fault", "asked"),
    [
        ("right", ["half"]),
        ("short", ["half", "more"]),
        ("empty", ["half", "half"]),
        ("long", ["half", "all"]),
        ("far too long", ["half", "all"]),
    ],
)
def test_a_range_without_a_length_brings_what_it_says(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None],
    framing: str, body: bytes, fault: str, asked: list[str],
) -> None:  # fmt: skip
    """Its Content-Range says how many bytes there are, so one that ends well but before them has broken off."""
    half = len(body) // 2
    more = half + 9000
    brings = {"right": body[half:], "short": body[half:more], "empty": b"", "long": body[half:] + b"x"}
    answer = Reply(
        206,
        brings.get(fault, body[half:] * 2),
        headers={**TAG, "Content-Range": f"bytes {half}-{len(body) - 1}/{len(body)}"},
        framing=framing,
    )
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", body)]})
    warehouse.script("/f.nwb", Serve(stop=Stop(half), headers=TAG), answer, then=Serve(headers=TAG))
    frame = go_on(tmp_path / "cache", table)
    assert Path(frame["path"][0]).read_bytes() == body
    assert frame["verified"].tolist() == ["length"]
    places = {"half": f"bytes={half}-", "more": f"bytes={more}-", "all": None}
    assert [record.header("Range") for record in warehouse.requests("/f.nwb")[1:]] == [places[place] for place in asked]
    note("21", f"206 without a length, {framing}: {fault}", "downloaded", warehouse.count("/f.nwb"))


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("states", ["nothing", "its size"])
def test_a_range_of_a_file_of_unknown_length_does_not_end_it(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None], framing: str, body: bytes, states: str
) -> None:
    """A server may send less than was asked for; only a 416 or a total tells that nothing is left."""
    half, more = len(body) // 2, len(body) * 3 // 4

    def rest(first: int, stop: int) -> Reply:
        said = {**TAG, "Content-Range": f"bytes {first}-{stop - 1}/*"}
        return Reply(206, body[first:stop], headers=said, framing=framing)

    cut = Serve(stop=Stop(half), headers=TAG, framing="chunked")
    none_left = Reply(416, headers={**TAG, "Content-Range": f"bytes */{len(body)}"})
    table = pd.DataFrame(
        {"url": [warehouse.add("/f.nwb", body)]} | ({"size": [len(body)]} if states != "nothing" else {})
    )
    warehouse.script("/f.nwb", cut, rest(half, more), rest(more, len(body)), none_left)
    frame = go_on(tmp_path / "cache", table)
    assert frame["status"].tolist() == ["downloaded"], frame["error"][0]
    assert Path(frame["path"][0]).read_bytes() == body
    asked = [record.header("Range") for record in warehouse.requests("/f.nwb")]
    assert asked == [None, f"bytes={half}-", f"bytes={more}-", f"bytes={len(body)}-"]
    note("21", f"206 that does not say where the file ends, {framing}", "downloaded", 4)


def test_a_range_that_breaks_behind_its_last_byte_loses_none(warehouse: WarehouseThread, tmp_path: Path) -> None:
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", SMALL)]})
    endless = Serve(framing=Chunked(last=b""), end="close")
    warehouse.script("/f.nwb", Serve(stop=Stop(20_000)), endless, then=Serve())
    frame = go_on(tmp_path / "cache", table)
    assert Path(frame["path"][0]).read_bytes() == SMALL
    asked = [record.header("Range") for record in warehouse.requests("/f.nwb")]
    assert asked == [None, "bytes=20000-", "bytes=40000-"]
