"""The catalogue's faults as a real nginx makes them: the directives are an administrator's, not a test server's."""

import base64
import gzip
import hashlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from framefetch import Limits, Link, MetadataCache, Options, RetryPolicy, Timeouts
from framefetch.engine.limits import START
from framefetch.events import BytesReceived, Event
from framefetch.warehouse import hdf5_file
from tests.conftest import EAGER
from tests.nginx import Nginx

pytestmark = pytest.mark.nginx

Serve = Callable[..., Nginx]
MIB = 1 << 20
#: Long before today: a date that tells versions apart.
OLD = 1_600_000_000
#: Large enough to be interrupted, too small to be split.
BODY, OTHER = hdf5_file(6 * MIB, seed=1), hdf5_file(6 * MIB, seed=2)
HALF = len(BODY) // 2
#: So slowly that half of it is still to come when half of it has come.
SLOWLY = "limit_rate 10m;"
ONCE = Options(retry=RetryPolicy(attempts=1, base=0.0, cap=0.0), timeouts=Timeouts(connect=2.0, stall=0.5))


@pytest.fixture
def www(tmp_path: Path) -> Path:
    folder = tmp_path / "www"
    folder.mkdir()
    return folder


def put(www: Path, name: str, body: bytes) -> Path:
    """Serve a file that was made long ago."""
    path = www / name
    path.write_bytes(body)
    os.utime(path, (OLD, OLD))
    return path


def fetched(table: pd.DataFrame, folder: Path, options: Options = EAGER) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Fetch a table; return the result's frame and figures, after an audit of every byte."""
    with MetadataCache(table, folder, options=options) as cache:
        result = cache.mirror(table)
        assert cache.verify("hash") == []
    return result.frame, result.summary()


def row(server: Nginx, name: str = "f.nwb", **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"url": [f"http://{server.host}/{name}"], **columns})


def held(folder: Path, name: str = "f.nwb") -> bytes:
    return (folder / "v0" / name).read_bytes()


def parts(folder: Path) -> list[Path]:
    return list((folder / ".framefetch" / "parts").iterdir())


def midway(options: Options, act: Callable[[], object], *, received: int = HALF, requests: int = 1) -> Options:
    """Return options with which something is done while a file is under way; nothing is received meanwhile."""
    done: list[Event] = []

    def watch(event: Event) -> None:
        enough = isinstance(event, BytesReceived) and event.total >= received and event.requests >= requests
        if enough and not done:
            done.append(event)
            act()

    return replace(options, observers=(watch,))


def cut(server: Nginx, table: pd.DataFrame, folder: Path) -> None:
    """Let a run fail half way because its server is stopped."""
    frame, _ = fetched(table, folder, midway(ONCE, server.stop))
    assert frame["status"].tolist() == ["failed"]


# -- slow, and too slow ------------------------------------------------------------------------------------------------


def test_case_72_slow_but_above_the_minimum_is_held(www: Path, tmp_path: Path, nginx: Serve) -> None:
    put(www, "f.nwb", BODY[:700_000])
    server = nginx(www, "limit_rate 600k;")
    limits = Timeouts(connect=2, stall=0.5, minimum_speed=200_000, speed_window=0.4)
    begin = time.monotonic()
    fetched(row(server), tmp_path / "cache", Options(timeouts=limits))
    assert time.monotonic() - begin > 2 * limits.speed_window, "it was looked at"
    assert held(tmp_path / "cache") == BODY[:700_000]
    assert server.requests() == 1


def test_case_71_below_the_minimum_speed_is_given_up(www: Path, tmp_path: Path, nginx: Serve) -> None:
    put(www, "f.nwb", BODY)
    server = nginx(www, 'limit_rate 300k; etag off; add_header Last-Modified "";')
    limits = Timeouts(connect=2, stall=2, minimum_speed=1_000_000, speed_window=0.4)
    options = Options(retry=RetryPolicy(attempts=2, base=0, cap=0), timeouts=limits)
    frame, _ = fetched(row(server), tmp_path / "cache", options)
    assert (frame["error_type"][0], frame["attempts"][0]) == ("TooSlow", 2)
    assert "bytes/s over " in frame["error"][0]
    assert "the minimum is 1,000,000 bytes/s" in frame["error"][0]
    assert [answer.status for answer in server.answers()] == [200, 200]
    assert not parts(tmp_path / "cache")


# -- so many and no more -----------------------------------------------------------------------------------------------

LIMITED = "limit_conn_zone $server_port zone=all:1m; limit_conn_status 429; limit_conn_log_level info;"


def test_cases_36_and_54_a_host_that_takes_four(www: Path, tmp_path: Path, nginx: Serve) -> None:
    bodies = {f"{at}.nwb": hdf5_file(100_000, seed=at) for at in range(24)}
    for name, body in bodies.items():
        put(www, name, body)
    server = nginx(www, "limit_conn all 4; limit_rate 4m; add_header Retry-After 1 always;", LIMITED)
    table = pd.DataFrame({"url": [f"http://{server.host}/{name}" for name in bodies]})
    frame, _ = fetched(table, tmp_path / "cache")
    assert set(frame["status"]) == {"downloaded"}
    for name, body in bodies.items():
        assert held(tmp_path / "cache", name) == body
    answers = server.answers()
    refused = [answer for answer in answers if answer.status == 429]
    assert START - 4 <= len(refused) <= START + 4
    first = refused[0].ended
    later = [answer for answer in answers if answer.begun > first + 0.2]
    assert min(answer.begun for answer in later) >= first + 0.95, "Retry-After holds the host"
    most = max(sum(one.begun <= other.begun < one.ended for one in later) for other in later)
    assert most <= 8, "the host's limit has come down"


def test_case_36_a_large_file_from_a_host_that_takes_one(www: Path, tmp_path: Path, nginx: Serve) -> None:
    body = hdf5_file(24 * MIB, seed=3)
    put(www, "f.nwb", body)
    server = nginx(www, "limit_conn all 1; limit_rate 20m;", LIMITED)
    fetched(row(server), tmp_path / "cache")
    assert held(tmp_path / "cache") == body
    assert [answer.status for answer in server.answers()] == [429, 200]


def test_case_37_a_large_file_where_each_connection_is_slow(www: Path, tmp_path: Path, nginx: Serve) -> None:
    body = hdf5_file(32 * MIB, seed=4)
    put(www, "f.nwb", body)
    server = nginx(www, "limit_rate 16m;")
    _, figures = fetched(row(server), tmp_path / "cache")
    assert held(tmp_path / "cache") == body
    answers = server.answers()
    assert [answer.status for answer in answers].count(200) == 1
    assert sum(answer.sent for answer in answers if answer.status == 206) >= len(body) // 4
    assert figures["bytes"] == len(body), "no byte is received twice"


# -- ranges, and versions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "directives", "status"),
    [
        ("1", "", 206),
        ("18", "max_ranges 0;", 200),
        ("29-by-date", "etag off;", 206),
        ("29", 'etag off; add_header Last-Modified "";', 200),
    ],
)
def test_the_next_run_goes_on_where_it_can(
    case: str, directives: str, status: int, www: Path, tmp_path: Path, nginx: Serve
) -> None:
    put(www, "f.nwb", BODY)
    server = nginx(www, SLOWLY + (directives if case != "18" else ""))
    table = row(server)
    cut(server, table, tmp_path / "cache")
    assert len(parts(tmp_path / "cache")) == (0 if case == "29" else 2), "a part, and what is known of it"
    server.start(server=directives)
    _, figures = fetched(table, tmp_path / "cache")
    assert held(tmp_path / "cache") == BODY
    (answer,) = server.answers()
    assert (answer.status, answer.sent) == (status, figures["bytes"])
    assert answer.wanted.startswith("bytes=") is (case != "29")
    assert figures["bytes"] == len(BODY) if status == 200 else figures["bytes"] <= HALF
    assert not parts(tmp_path / "cache")


def test_case_37_a_large_file_where_ranges_are_ignored(www: Path, tmp_path: Path, nginx: Serve) -> None:
    body = hdf5_file(24 * MIB, seed=5)
    put(www, "f.nwb", body)
    server = nginx(www, "max_ranges 0; limit_rate 24m;")
    fetched(row(server), tmp_path / "cache")
    assert held(tmp_path / "cache") == body
    assert server.requests() <= 2, "one request finds out"


def test_case_1_stopped_in_the_middle_and_started_again(www: Path, tmp_path: Path, nginx: Serve) -> None:
    put(www, "f.nwb", BODY)
    server = nginx(www, SLOWLY)
    frame, _ = fetched(row(server), tmp_path / "cache", midway(EAGER, lambda: (server.stop(), server.start())))
    assert frame["status"].tolist() == ["downloaded"]
    assert held(tmp_path / "cache") == BODY
    (answer,) = server.answers()
    assert answer.status == 206
    assert answer.sent <= HALF, "no byte that was kept is asked for again"


def rewrite(path: Path, body: bytes) -> None:
    """Write another version into the same file."""
    with path.open("r+b") as file:
        file.write(body)
        file.truncate()


@pytest.mark.parametrize("states", ["the new version", "the old version", "nothing, and it is shorter"])
def test_case_26_rewritten_in_place_while_it_is_sent(states: str, www: Path, tmp_path: Path, nginx: Serve) -> None:
    """Nginx sends the beginning of one version and the end of the other, with the length that it had announced."""
    path = put(www, "f.nwb", BODY)
    server = nginx(www, SLOWLY)
    new = OTHER[: 4 * MIB] if states.startswith("nothing") else OTHER
    md5 = {"the new version": new, "the old version": BODY}.get(states)
    table = row(server) if md5 is None else row(server, md5=[hashlib.md5(md5).hexdigest()])
    frame, _ = fetched(table, tmp_path / "cache", midway(EAGER, lambda: rewrite(path, new)))
    if states == "the old version":
        assert frame["error_type"].tolist() == ["DigestMismatch"]
        assert not (tmp_path / "cache" / "v0" / "f.nwb").exists()
    else:
        assert frame["status"].tolist() == ["downloaded"]
        assert held(tmp_path / "cache") == new
    assert not parts(tmp_path / "cache")
    assert server.requests() == 2


def test_case_27_rewritten_in_place_while_ranges_of_it_are_sent(www: Path, tmp_path: Path, nginx: Serve) -> None:
    old, new = hdf5_file(32 * MIB, seed=6), hdf5_file(32 * MIB, seed=7)
    path = put(www, "f.nwb", old)
    server = nginx(www, "limit_rate 24m;")
    two = replace(EAGER, limits=Limits(per_host=2))  # so that most of it is not asked for yet
    options = midway(two, lambda: rewrite(path, new), received=MIB, requests=3)
    frame, _ = fetched(row(server), tmp_path / "cache", options)
    assert frame["status"].tolist() == ["downloaded"]
    assert held(tmp_path / "cache") == new
    assert server.answers()[-1].status == 200


# -- codings -----------------------------------------------------------------------------------------------------------


def test_case_40_codings(www: Path, tmp_path: Path, nginx: Serve) -> None:
    """Gzip for who asks for it, gzip for everybody, and a label on what is no coding but the file."""
    text = b"".join(b"%d,%d\n" % (at, at * at) for at in range(50_000))
    put(www, "plain.csv", text)
    put(www, "always.csv.gz", gzip.compress(text))
    put(www, "scan.nii.gz", gzip.compress(text))
    directives = """
        types { text/csv csv; }
        gzip on; gzip_types text/csv;
        location /always.csv { gzip_static always; }
        location /scan.nii.gz { add_header Content-Encoding gzip; }
    """
    server = nginx(www, directives)
    names = ["plain.csv", "always.csv", "scan.nii.gz"]
    table = pd.DataFrame({"url": [f"http://{server.host}/{name}" for name in names]})
    frame, _ = fetched(table, tmp_path / "cache")
    assert frame["status"].tolist() == ["downloaded"] * 3, frame["error"].tolist()
    right = [text, text, (www / "scan.nii.gz").read_bytes()]
    assert [held(tmp_path / "cache", name) for name in names] == right
    assert frame["md5"].tolist() == [hashlib.md5(body).hexdigest() for body in right]
    sent = {answer.target: answer.sent for answer in server.answers()}
    assert sent["/plain.csv"] == len(text), "it was not asked to compress"
    assert sent["/always.csv"] < len(text)


def test_case_38_the_rest_of_a_file_that_is_coded_by_now(www: Path, tmp_path: Path, nginx: Serve) -> None:
    """The date says that it is the same file, and still these are other bytes."""
    put(www, "f.nwb", BODY)
    put(www, "f.nwb.gz", gzip.compress(BODY, 0))  # as long, so that it has bytes where we ask for more
    server = nginx(www, SLOWLY + "etag off;")
    table = row(server)
    cut(server, table, tmp_path / "cache")
    server.start(server="etag off; location = /f.nwb { try_files /f.nwb.gz =404; add_header Content-Encoding gzip; }")
    frame, _ = fetched(table, tmp_path / "cache")
    assert frame["status"].tolist() == ["downloaded"], frame["error"][0]
    assert held(tmp_path / "cache") == BODY
    assert [answer.status for answer in server.answers()] == [206, 200]


# -- refusals ----------------------------------------------------------------------------------------------------------

SECURE = """
    location / {{
        secure_link $arg_{name},$arg_expires;
        secure_link_md5 "$secure_link_expires$uri open sesame";
        if ($secure_link = "") {{ return 403; }}
        if ($secure_link = "0") {{ return 410; }}
    }}
"""


def signed(server: Nginx, path: str, name: str, expires: int) -> str:
    digest = hashlib.md5(f"{expires}{path} open sesame".encode()).digest()
    text = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return f"http://{server.host}{path}?{name}={text}&expires={expires}"


@pytest.mark.parametrize("name", ["md5", "sig"])
def test_case_52_secure_link(name: str, www: Path, tmp_path: Path, nginx: Serve) -> None:
    for at in range(40):
        put(www, f"{at}.nwb", hdf5_file(3000, seed=at))
    server = nginx(www, SECURE.format(name=name))
    late = int(time.time()) + 3600
    table = pd.DataFrame({"url": [signed(server, f"/{at}.nwb", name, OLD) for at in range(40)]})
    frame, _ = fetched(table, tmp_path / "cache")
    assert frame["error"].str.contains("expired-url").all()
    assert [answer.status for answer in server.answers()] == [410] * 40
    asked: list[Sequence[Link]] = []

    def refresh(links: Sequence[Link]) -> dict[str, str]:
        asked.append(links)
        return {link.key: signed(server, "/" + link.url.split("/")[3].partition("?")[0], name, late) for link in links}

    frame, _ = fetched(table, tmp_path / "cache", Options(refresh_url=refresh))
    assert set(frame["status"]) == {"downloaded"}
    assert [len(links) for links in asked] == [40]
    for at in range(40):
        assert held(tmp_path / "cache", f"{at}.nwb") == hdf5_file(3000, seed=at)
    before = server.requests()
    table["url"] = [signed(server, f"/{at}.nwb", name, late + 1) for at in range(40)]
    frame, _ = fetched(table, tmp_path / "cache")
    assert set(frame["status"]) == {"cached"}, "a link signed anew is the same file"
    assert server.requests() == before
    assert not frame["url"].str.contains(str(late + 1)).any()
    broken = table["url"].head(1).str.replace("/0.nwb", "/1.nwb").to_frame()
    frame, _ = fetched(broken, tmp_path / "other")
    assert "got 403" in frame["error"][0]
    assert "expired" not in frame["error"][0]


def test_cases_74_and_60_no_answer_and_a_redirect_to_itself(www: Path, tmp_path: Path, nginx: Serve) -> None:
    put(www, "f.nwb", BODY)
    loops = "location /a.nwb { return 302 /b.nwb; } location /b.nwb { return 302 /a.nwb; }"
    server = nginx(www, "location /none.nwb { return 444; } location /loop.nwb { return 302 /loop.nwb; }" + loops)
    names = ["f.nwb", "none.nwb", "loop.nwb", "a.nwb"]
    table = pd.DataFrame({"url": [f"http://{server.host}/{name}" for name in names]})
    frame, _ = fetched(table, tmp_path / "cache")
    assert frame["error_type"].tolist()[1:] == ["ConnectionLost", "RedirectError", "RedirectError"]
    assert held(tmp_path / "cache") == BODY
    assert frame["attempts"].tolist() == [1, 5, 1, 1]
    assert "a loop: " in frame["error"][2]
    targets = [answer.target for answer in server.answers()]
    # A connection that was used before may have been closed for its age: that is found out by one request more.
    assert 5 <= targets.count("/none.nwb") <= 10
    # A server may set a cookie and send one back to where one came from: twice is no loop yet.
    assert (targets.count("/loop.nwb"), targets.count("/a.nwb"), targets.count("/b.nwb")) == (2, 2, 2)


@pytest.mark.parametrize("case", ["69", "70"])
def test_workers_that_stand_still(case: str, www: Path, tmp_path: Path, nginx: Serve) -> None:
    put(www, "f.nwb", BODY)
    server = nginx(www, SLOWLY)
    table, folder = row(server), tmp_path / "cache"
    try:
        if case == "69":
            server.signal_workers(signal.SIGSTOP)
        frame, _ = fetched(table, folder, midway(ONCE, lambda: server.signal_workers(signal.SIGSTOP)))
    finally:
        server.signal_workers(signal.SIGCONT)
    assert frame["error_type"].tolist() == ["Stalled"]
    assert "0.5 s" in frame["error"][0]
    frame, figures = fetched(table, folder)
    assert frame["status"].tolist() == ["downloaded"]
    assert held(folder) == BODY
    assert figures["bytes"] == len(BODY) if case == "69" else figures["bytes"] <= HALF
