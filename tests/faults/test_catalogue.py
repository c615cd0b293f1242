"""The fault catalogue: what servers do to downloaders, and what must become of it.

Each case is named after its number. The fault hits one row of three; the other two must be held whatever happens to
it, the final name of the row is absent or right, the manifest knows only what is right, and the server saw no more
requests than the case allows.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from framefetch import MetadataCache, Options, RetryPolicy, Timeouts
from framefetch.warehouse import (
    CONTINUE,
    Chunked,
    Pace,
    Push,
    Raw,
    Reply,
    Serve,
    Stop,
    WarehouseThread,
    bomb,
    deflated,
    endless,
    gzipped,
    hdf5_file,
)
from tests.conftest import EAGER
from tests.seals import PEM, tls_warehouse

CONTENT = hdf5_file(20_000, seed=1)
PAGE = b"<!DOCTYPE html><html><head><title>Earthdata Login</title></head><body>" + b" " * 2000 + b"</body></html>"
HEAD = b"HTTP/1.1 200 OK\r\n"


@dataclass(frozen=True)
class Case:
    """A fault, what must become of its row, and how many requests that may take."""

    number: str
    fault: str
    answers: tuple[Any, ...]
    outcome: str
    requests: int
    then: Any = None
    says: str = ""
    table: dict[str, Any] = field(default_factory=dict)
    right: bytes = CONTENT
    options: Options = EAGER


def case(number: str, fault: str, *answers: Any, outcome: str = "downloaded", requests: int = 1, **more: Any) -> Any:
    return pytest.param(
        Case(number, fault, answers, outcome, requests, **more), id=f"{number}-{fault.replace(' ', '-')}"
    )


def coded(body: bytes, coding: str = "gzip", **more: Any) -> Serve:
    return Serve(content=body, headers={"Content-Encoding": coding}, **more)


WIRE = {"md5": hashlib.md5(gzipped(CONTENT)).hexdigest()}
MD5 = {"md5": hashlib.md5(CONTENT).hexdigest()}
SIZE = {"size": float(len(CONTENT))}

CASES = [
    # A. body length and framing
    case("1", "short body, FIN", Serve(stop=Stop(10240)), then=Serve(), requests=2),
    case(
        "1",
        "short body for ever, nothing to go on by",
        Serve(stop=Stop(10240), headers={"ETag": None, "Last-Modified": None}),
        outcome="IncompleteBody",
        requests=5,
        says="expected 20,000 bytes, got 10,240",
    ),
    case("2", "short body, RST", Serve(stop=Stop(10240, "reset")), then=Serve(), requests=2),
    case("3", "no length, clean FIN", Serve(framing="close"), says="none"),
    case("3", "no length, clean FIN, md5 stated", Serve(framing="close"), says="digest", table=MD5),
    case(
        "3",
        "no length, cut short, md5 stated",
        Serve(framing="close", stop=Stop(9000)),
        outcome="DigestMismatch",
        requests=2,
        table=MD5,
    ),
    case(
        "3",
        "no length, cut short, size stated",
        Serve(framing="close", stop=Stop(9000)),
        outcome="ResourceChanged",
        table=SIZE,
    ),
    case(
        "4",
        "no length, RST",
        Serve(framing="close", stop=Stop(9000, "reset")),
        outcome="IncompleteBody",
        requests=5,
        says="unstated length",
    ),
    case("6", "chunked, cut inside a chunk", Serve(framing=Chunked(1000), stop=Stop(1500)), then=Serve(), requests=2),
    case("6", "chunked, cut between chunks", Serve(framing=Chunked(1000), stop=Stop(2000)), then=Serve(), requests=2),
    case(
        "6",
        "chunked, no last chunk, nothing to go on by",
        Serve(framing=Chunked(last=b""), end="close", headers={"ETag": None, "Last-Modified": None}),
        outcome="IncompleteBody",
        requests=5,
    ),
    case("6", "chunked, whole", Serve(framing="chunked"), says="none"),
    case("7", "bad chunk line", Serve(framing=Chunked(line=b"ZZ\r\n")), outcome="ProtocolError", requests=2),
    case(
        "7",
        "overflowing chunk line",
        Serve(framing=Chunked(line=b"F" * 30 + b"\r\n")),
        outcome="ProtocolError",
        requests=2,
    ),
    case("7", "NUL in a chunk line", Serve(framing=Chunked(line=b"1\x000\r\n")), outcome="ProtocolError", requests=2),
    case(
        "7",
        "200 kB chunk extension",
        Serve(framing=Chunked(extension=b";" + b"e" * 200_000)),
        outcome="ProtocolError",
        requests=2,
    ),
    case(
        "7",
        "trailer flood",
        Serve(framing=Chunked(last=b"0\r\n" + b"X: y\r\n" * 9999 + b"\r\n")),
        outcome="ProtocolError",
        requests=2,
    ),
    case(
        "8",
        "more bytes than announced, at once",
        Serve(after=b"extra"),
        outcome="ProtocolError",
        requests=2,
        says="more than the 20,000 bytes",
    ),
    case("8", "more bytes than announced, later", Serve(push=Push(b"extra", 0.05))),
    case(
        "9",
        "Content-Length and chunked",
        Serve(framing="chunked", headers={"Content-Length": "20000"}),
        outcome="ProtocolError",
        requests=2,
        says="Content-Length and Transfer-Encoding",
    ),
    case(
        "9",
        "two different lengths",
        Serve(headers={"Content-Length": ["20000", "5"]}),
        outcome="ProtocolError",
        requests=2,
    ),
    case(
        "9",
        "the same length twice",
        Serve(headers={"Content-Length": ["20000", "20000"]}),
        outcome="ProtocolError",
        requests=2,
    ),
    *(
        case(
            "10",
            f"Content-Length {value[:12]}",
            Serve(headers={"Content-Length": value}),
            outcome="ProtocolError",
            requests=2,
            says="Content-Length",
        )
        for value in ("-1", "many", "9" * 23, "1e4", "0x10")
    ),
    case(
        "10",
        "Content-Length 2^63-ish",
        Serve(headers={"Content-Length": "9" * 18, "ETag": None, "Last-Modified": None}, stop=Stop(20_000)),
        outcome="IncompleteBody",
        requests=5,
    ),
    case(
        "11", "endless body, size stated", Serve(content=endless(), framing="close"), outcome="BodyTooLong", table=SIZE
    ),
    case(
        "12",
        "length differs from the size column",
        Serve(),
        outcome="ResourceChanged",
        says="expected 5 bytes as the table states, the server says 20,000",
        table={"size": 5.0},
    ),
    case("13", "empty file, size stated", Serve(content=b""), outcome="ResourceChanged", table=SIZE),
    case(
        "13", "empty file under a .nwb name", Serve(content=b""), outcome="ContentMismatch", says="begins with nothing"
    ),
    *(
        case(
            "14",
            f"status {status:03}",
            Reply(status, b"" if status in (204, 304) else CONTENT),
            outcome="StatusError",
            says=f"got {status:03}",
        )
        for status in (101, 203, 204, 205, 206, 226, 304, 600, 999)
    ),
    case("14", "status 000", Reply(0, CONTENT), outcome="StatusError", says="got 000"),
    case("17", "idle for longer than the stall timeout", Serve(delay=0.1)),
    # C. encoding and content
    case("40", "gzip nobody asked for", coded(gzipped(CONTENT)), says="length"),
    case("40", "gzip nobody asked for, md5 of the file", coded(gzipped(CONTENT)), table=MD5),
    case(
        "40",
        "gzip nobody asked for, md5 of the coded bytes",
        coded(gzipped(CONTENT)),
        requests=2,
        table=WIRE,
        right=gzipped(CONTENT),
    ),
    case("40", "gzip nobody asked for, chunked", coded(gzipped(CONTENT), framing="chunked"), says="none"),
    case("42", "gzip cut, length consistent", coded(gzipped(CONTENT)[:-20]), then=Serve(), requests=2),
    case(
        "42",
        "gzip cut for ever",
        coded(gzipped(CONTENT)[:-20]),
        outcome="EncodingError",
        requests=5,
        says="ended early",
    ),
    case("43", "wrong CRC", coded(gzipped(CONTENT, bad_crc=True)), outcome="EncodingError", says="cannot be decoded"),
    case(
        "43",
        "junk behind the stream",
        coded(gzipped(CONTENT) + b"junk"),
        outcome="EncodingError",
        says="more bytes behind it",
    ),
    case("43", "two members", coded(gzipped(CONTENT[:9000]) + gzipped(CONTENT[9000:]))),
    case("43", "x-gzip", coded(gzipped(CONTENT), "x-gzip")),
    case("43", "deflate", coded(deflated(CONTENT), "deflate")),
    case("43", "deflate without its header", coded(deflated(CONTENT, raw=True), "deflate")),
    case(
        "43", "gzip twice", coded(gzipped(gzipped(CONTENT)), "gzip, gzip"), outcome="EncodingError", says="gzip, gzip"
    ),
    case("43", "not gzip at all", coded(b"plain text, no gzip at all"), outcome="EncodingError"),
    case("43", "unknown coding", coded(CONTENT, "snappy"), outcome="EncodingError", says="snappy"),
    case("44", "a bomb, size stated", coded(bomb(200_000_000)), outcome="BodyTooLong", table=SIZE),
    case("43", "coding that is none", Serve(headers={"Content-Encoding": "identity"})),
    case(
        "45",
        "login page",
        Reply(200, PAGE, headers={"Content-Type": "text/html"}),
        outcome="ContentMismatch",
        says="HTML (title 'Earthdata Login'); is a login needed?",
    ),
    case("46", "JSON error with 200", Reply(200, b'{"error": "AccessDenied"}'), outcome="ContentMismatch", says="JSON"),
    case(
        "46",
        "XML error with 200",
        Reply(200, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
        outcome="ContentMismatch",
        says="XML",
    ),
    case(
        "49",
        "wrong bytes, always",
        Serve(content=b"x" * 20_000),
        outcome="DigestMismatch",
        requests=2,
        table=MD5,
        says="expected md5:",
    ),
    case("50", "wrong bytes, once", Serve(content=b"x" * 20_000), then=Serve(), requests=2, table=MD5),
    # D. status codes and pacing
    *(
        case("51", f"status {status}", Reply(status), outcome="StatusError", says=str(status))
        for status in (400, 401, 403, 404, 410, 451)
    ),
    *(
        case("53", f"status {status}, once", Reply(status), then=Serve(), requests=2)
        for status in (408, 425, 500, 502, 503, 504, 520, 530)
    ),
    *(case("53", f"status {status}", Reply(status), outcome="StatusError") for status in (501, 505)),
    case("53", "503 for ever", Reply(503), outcome="StatusError", requests=5, says="after 5 attempts"),
    case(
        "56",
        "Retry-After of 317 years",
        Reply(503, headers={"Retry-After": "10000000000"}),
        outcome="StatusError",
        says="asks to wait 317 years; the budget is 600 s",
    ),
    case(
        "56", "Retry-After that cannot be read", Reply(503, headers={"Retry-After": "soon"}), then=Serve(), requests=2
    ),
    case("59", "redirect without Location", Reply(302), outcome="RedirectError"),
    case("59", "redirect with a blank Location", Reply(302, headers={"Location": " "}), outcome="RedirectError"),
    case("59", "redirect with two Locations", Reply(302, headers={"Location": ["/a", "/b"]}), outcome="RedirectError"),
    *(
        case(
            "59",
            f"redirect to {what}",
            Reply(302, headers={"Location": location}),
            outcome="RedirectError",
            says="expected a redirect to a URL with a valid host and port",
        )
        for what, location in (
            ("a byte that is no name", "http://\udc80x/"),
            ("an empty label of an IDN", "http://é..x/"),
            ("a port that is none", "http://127.0.0.1:99999/"),
            ("port 0", "http://127.0.0.1:0/"),
            ("an open bracket", "http://[::1/"),
            ("a template", "http://{host}/"),
        )
    ),
    case("59", "status 300", Reply(300, CONTENT, headers={"Location": "/a"}), outcome="StatusError"),
    # E. redirects and request safety
    *(
        case("63", f"redirect to {target[:12]}", Reply(302, headers={"Location": target}), outcome="PolicyRefused")
        for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://127.0.0.1", "unix:/x")
    ),
    # F. network
    case("69", "accepts and never answers", Serve(stop=Stop(0, "hang", of="wire")), then=Serve(), requests=2),
    case("70", "stall in the body", Serve(stop=Stop(9000, "hang")), then=Serve(), requests=2),
    case("71", "drip of the body", Serve(pace=Pace(1, 0.02)), then=Serve(), requests=2),
    case("71", "drip of the head", Serve(head_pace=Pace(1, 0.02)), then=Serve(), requests=2),
    case("71", "100 Continue for ever", Raw(CONTINUE, repeat=None, pace=Pace(25, 0.01)), then=Serve(), requests=2),
    case("71", "some 100 Continue", Serve(before=CONTINUE * 20)),
    case("74", "closed before the status", Raw(b"", end="close"), then=Serve(), requests=2),
    case("74", "reset before the status", Raw(b"", end="reset"), then=Serve(), requests=2),
    case("74", "closed within the head", Raw(HEAD + b"Content-Le", end="close"), then=Serve(), requests=2),
    case(
        "80",
        "SSH banner",
        Raw(b"SSH-2.0-OpenSSH_9.6\r\n", end="close"),
        outcome="ProtocolError",
        requests=2,
        says="SSH-2.0",
    ),
    case("80", "HTTP/0.9", Raw(b"<html>hello</html>", end="close"), outcome="ProtocolError", requests=2),
    case("80", "binary", Raw(bytes(range(256)), end="close"), outcome="ProtocolError", requests=2),
    case("80", "bad status line", Raw(b"HTTP/1.1 2x0 OK\r\n\r\n", end="close"), outcome="ProtocolError", requests=2),
    case(
        "80",
        "HTTP/2.0 status line",
        Raw(b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", end="close"),
        outcome="ProtocolError",
        requests=2,
    ),
    case("80", "one header of 9 kB", Serve(headers={"X-Long": "x" * 9000}), outcome="ProtocolError", requests=2),
    case(
        "80",
        "50,000 headers",
        Raw(HEAD + b"X: y\r\n" * 50_000 + b"\r\n", end="close"),
        outcome="ProtocolError",
        requests=2,
    ),
    case(
        "80",
        "NUL in a header",
        Raw(HEAD + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n"),
        outcome="ProtocolError",
        requests=2,
    ),
    case(
        "80",
        "header without colon",
        Raw(HEAD + b"nonsense\r\nContent-Length: 0\r\n\r\n"),
        outcome="ProtocolError",
        requests=2,
    ),
    case(
        "80", "blank before the colon", Raw(HEAD + b"Content-Length : 0\r\n\r\n"), outcome="ProtocolError", requests=2
    ),
]


@pytest.mark.parametrize("fault", CASES)
def test_case(fault: Case, warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]) -> None:
    urls = [warehouse.add("/before.nwb", hdf5_file(3000, seed=7)), warehouse.add("/fault.nwb", CONTENT)]
    urls.append(warehouse.add("/after.nwb", hdf5_file(3000, seed=8)))
    table = pd.DataFrame({"url": urls})
    for column, value in fault.table.items():
        table[column] = [None, value, None]
    warehouse.script("/fault.nwb", *fault.answers, then=fault.then)
    with MetadataCache(table, tmp_path / "cache", options=fault.options) as cache:
        result = cache.mirror(table)
        frame = result.frame
        held = cache.verify("hash")
    assert frame["status"].tolist()[::2] == ["downloaded"] * 2, "one bad row harms only itself"
    outcome = "downloaded" if frame["status"][1] == "downloaded" else frame["error_type"][1]
    assert outcome == fault.outcome, frame["error"][1]
    target = tmp_path / "cache" / "v0" / "fault.nwb"
    if outcome == "downloaded":
        assert target.read_bytes() == fault.right
        assert frame["verified"][1] == (fault.says or ("digest" if "md5" in fault.table else "length"))
    else:
        assert not target.exists()
        assert fault.says in frame["error"][1]
        assert len(frame["error"][1]) > 20
    assert held == []
    assert warehouse.count("/fault.nwb") == fault.requests
    kept = [path.name for path in (tmp_path / "cache" / ".framefetch" / "parts").iterdir()]
    assert not kept or (outcome != "downloaded" and all(name.startswith("kept-") for name in kept))
    note(fault.number, fault.fault, outcome, warehouse.count("/fault.nwb"))


@pytest.mark.parametrize("size", [20_000, 3_000_000])
@pytest.mark.parametrize("moved", [False, True])
def test_case_49_wrong_bytes_are_asked_for_once_more_on_a_new_connection(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None], size: int, *, moved: bool
) -> None:
    """A connection may stick to the one server behind a name that is wrong."""
    right, wrong = hdf5_file(size, seed=1), hdf5_file(size, seed=2)
    table = pd.DataFrame({"url": [warehouse.add("/f.nwb", right)], "md5": [hashlib.md5(right).hexdigest()]})
    if moved:
        table["url"] = [warehouse.add("/moved.nwb", b"")]
        warehouse.script("/moved.nwb", Reply(302, headers={"Location": "/f.nwb"}))
    warehouse.script("/f.nwb", lambda record: Serve(content=wrong if record.connection == 1 else right))
    with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
        frame = cache.mirror(table).frame
    assert frame["verified"][0] == "digest", frame["error"][0]
    assert (tmp_path / "cache" / "v0" / Path(frame["path"][0]).name).read_bytes() == right
    assert warehouse.count("/f.nwb") == 2
    note("49", f"wrong bytes on one connection, {size:,}", "downloaded", 2)


def test_case_15_an_unsolicited_answer_is_nobodys(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    """What came on an idle connection before the next request is not its answer, also in the kernel's buffer."""
    table = pd.DataFrame({"url": [warehouse.add(f"/{at}.nwb", hdf5_file(2000, seed=at)) for at in range(40)]})
    with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
        for at in range(40):
            warehouse.script(f"/{at}.nwb", Serve(push=Push(Reply(200, hdf5_file(2000, seed=99)))))
            path = Path(cache.mirror(table.iloc[[at]]).paths.iloc[0])
            assert path.read_bytes() == hdf5_file(2000, seed=at)
            warehouse.release(f"/{at}.nwb")
            warehouse.wait_for(f"/{at}.nwb", 1, "pushed")
        assert cache.verify("hash") == []
    assert warehouse.count() == 40
    note("15", "an answer nobody asked for on an idle connection", "downloaded", warehouse.count())


def test_case_41_gz_names_keep_their_bytes(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    volume = gzipped(b"\x5c\x01\0\0" + bytes(2000))
    table = pd.DataFrame({"url": [warehouse.add("/bold.nii.gz", volume), warehouse.add("/t.tar.gz", volume)]})
    warehouse.script_all(Serve(headers={"Content-Encoding": "gzip"}))
    with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
        assert [Path(path).read_bytes() for path in cache.mirror(table).paths] == [volume, volume]
    note("41", ".nii.gz and .tar.gz labelled gzip", "downloaded", warehouse.count())


def test_case_69_a_silent_host_blocks_nobody(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    with WarehouseThread() as healthy:
        warehouse.script_all(Serve(stop=Stop(0, "hang", of="wire")))
        silent = [warehouse.url(f"/{at}.nwb") for at in range(40)]
        good = [healthy.add(f"/good{at}.nwb", hdf5_file(2000, seed=at)) for at in range(40)]
        table = pd.DataFrame({"url": silent + good})
        options = Options(retry=RetryPolicy(attempts=1), timeouts=Timeouts(stall=0.4))
        with MetadataCache(table, tmp_path / "cache", options=options) as cache:
            frame = cache.mirror(table).frame
        assert frame["status"].tolist() == ["failed"] * 40 + ["downloaded"] * 40
        assert set(frame["error_type"][:40]) == {"Stalled"}
        first_silence_over = min(record.received_at for record in warehouse.log) + 0.4
        assert max(record.answered_at for record in healthy.log) < first_silence_over
        note("69", "40 rows of a silent host beside a healthy one", "Stalled", warehouse.count())


def test_case_67_targets_go_out_as_they_are(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    target = "/a%2Fb/x+y.nwb?sig=ab%2Fcd%3D&X-Amz-Date=2026%3A01"
    warehouse.add("/a%2Fb/x+y.nwb", CONTENT)
    warehouse.script_all(Serve(content=CONTENT))
    table = pd.DataFrame({"url": [warehouse.base_url + target]})
    with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
        result = cache.mirror(table)
    assert warehouse.log[0].target == target
    assert Path(result.paths[0]).name == "x+y.nwb"
    assert result.frame["url"][0].endswith("?sig=***&X-Amz-Date=***")
    note("67", "a signed target, byte for byte", "downloaded", 1)


def test_case_75_a_refused_port(tmp_path: Path, note: Callable[..., None]) -> None:
    table = pd.DataFrame({"url": [f"http://127.0.0.1:1/{at}.nwb" for at in range(20)]})
    with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
        frame = cache.mirror(table).frame
    assert set(frame["error_type"]) == {"ConnectFailed"}
    assert frame["error"].str.contains("no connection to http://127.0.0.1:1").all()
    note("75", "a refused port", "ConnectFailed", 0)


def test_case_78_a_certificate_nobody_vouches_for(tmp_path: Path, note: Callable[..., None]) -> None:
    with tls_warehouse() as warehouse:
        table = pd.DataFrame({"url": [warehouse.add("/1.nwb", CONTENT)]})
        with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
            frame = cache.mirror(table).frame
        assert frame[["error_type", "attempts"]].values.tolist() == [["TlsFailed", 1]]
        assert "self-signed certificate" in frame["error"][0]
        assert warehouse.count() == 0
        note("78", "a self-signed certificate", "TlsFailed", 0)


@pytest.mark.parametrize(("end", "outcome"), [("close", "downloaded"), ("abort", "downloaded"), ("reset", "failed")])
def test_case_05_tls_without_a_length(tmp_path: Path, note: Callable[..., None], end: str, outcome: str) -> None:
    """Without a length a stream that just ends proves nothing: such a file is held, and never called verified."""
    with tls_warehouse() as warehouse:
        url = warehouse.add("/1.nwb", CONTENT)
        warehouse.script("/1.nwb", Serve(framing="close", end=end))
        (tmp_path / "table.csv").write_text(f"url\n{url}\n")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "framefetch", "mirror", tmp_path / "table.csv", tmp_path / "c"),
                *("--attempts", "1", "--report", tmp_path / "report.csv"),
            ],
            env=os.environ | {"SSL_CERT_FILE": str(PEM)},
            capture_output=True,
            timeout=40,
        )
        report = pd.read_csv(tmp_path / "report.csv")
        assert report["status"].tolist() == [outcome], done.stderr
        if outcome == "downloaded":
            assert report["verified"].tolist() == ["none"]
            assert (tmp_path / "c" / "v0" / "1.nwb").read_bytes() == CONTENT
        note("5", f"TLS, no length, ended by {end}", outcome, warehouse.count())


def test_case_62_no_way_down_from_https(tmp_path: Path, warehouse: WarehouseThread, note: Callable[..., None]) -> None:
    plain = warehouse.add("/1.nwb", CONTENT)
    with tls_warehouse() as secure:
        secure.script("/1.nwb", Reply(302, headers={"Location": plain}))
        (tmp_path / "table.csv").write_text(f"url\n{secure.url('/1.nwb')}\n")
        done = subprocess.run(
            [sys.executable, "-m", "framefetch", "mirror", tmp_path / "table.csv", tmp_path / "c"],
            env=os.environ | {"SSL_CERT_FILE": str(PEM)},
            capture_output=True,
            text=True,
            timeout=40,
        )
        assert done.returncode == 1
        assert "a redirect from https to plain http is not followed" in done.stderr
    assert warehouse.count() == 0
    note("62", "a redirect from https to http", "PolicyRefused", 1)
