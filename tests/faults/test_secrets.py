"""No secret leaves: every fault of the catalogue, with a canary in every place where a secret can be.

What framefetch writes, raises, logs, shows and returns is searched for it; what it may be sent to is not.
"""

import base64
import functools
import io
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest

import framefetch.sources.names
from framefetch import FetchFailed, MetadataCache, Options, Progress, RetryPolicy, Timeouts
from framefetch.events import FileFinished
from framefetch.sources.environment import basic
from framefetch.sources.names import Addresses
from framefetch.ui.report import write_report
from framefetch.warehouse import Chunked, Raw, Reply, Serve, WarehouseThread
from tests.faults.test_catalogue import CASES, CONTENT
from tests.resolver import NO_SUCH_NAME, Resolver

CANARY = "c4n4ryb1rd"
USER, PASSWORD = f"user-{CANARY}", f"pass-{CANARY}/@:"
LOGIN = basic(USER, PASSWORD).removeprefix("Basic ")
QUERY = f"token={CANARY}-t&X-Amz-Signature={CANARY}-s&X-Amz-Credential={CANARY}-c&Expires=99{CANARY}"
USERINFO = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}@"

#: As text, and as base64 of whatever it stands in: of each of the three offsets, what no neighbour has a part in.
NEEDLES = [CANARY.encode(), LOGIN.encode()]
for at in range(3):
    coded = base64.b64encode(b"-" * at + CANARY.encode())
    NEEDLES.append(coded[-(-at * 4 // 3) : (at + len(CANARY)) * 4 // 3])

RETRY = RetryPolicy(attempts=2, base=0, cap=0)
TIMEOUTS = Timeouts(connect=1, stall=0.4, speed_window=0.4)
HEADERS = {"X-Api-Key": f"{CANARY}-key", "Cookie": f"session={CANARY}"}


def _echo(record: Any) -> str:
    """Return what a chatty server says of a request: all that it was asked and told."""
    return (
        f"http://{USERINFO}host{record.target} Authorization: {record.header('Authorization') or f'Bearer {CANARY}-x'}"
    )


def _error_page(record: Any) -> Reply:
    return Reply(200, f"<html><title>no {_echo(record)}</title></html>".encode() * 20)


#: Servers that quote what they were asked, in each place that a message may show.
ECHOES: list[tuple[str, Any]] = [
    ("title of a page", _error_page),
    ("JSON", lambda record: Reply(200, b'{"for": "' + _echo(record).encode() + b'"}')),
    ("a text", lambda record: Reply(200, _echo(record).encode())),
    ("reason", lambda record: Reply(404, reason=_echo(record))),
    ("reason of 403", lambda record: Reply(403, _echo(record).encode() * 99, reason=_echo(record))),
    ("status line", lambda record: Raw(f"HTTP/1.1 2x0 {_echo(record)}\r\n\r\n".encode(), end="close")),
    ("no HTTP", lambda record: Raw(_echo(record).encode() + b"\r\n\r\n", end="close")),
    ("header line", lambda record: Raw(f"HTTP/1.1 200 OK\r\nbad {_echo(record)}\r\n\r\n".encode(), end="close")),
    ("length", lambda record: Serve(headers={"Content-Length": _echo(record)})),
    ("transfer coding", lambda record: Serve(headers={"Transfer-Encoding": _echo(record)})),
    ("content coding", lambda record: Serve(headers={"Content-Encoding": _echo(record)})),
    ("chunk line", lambda record: Serve(framing=Chunked(line=_echo(record).encode() + b"\r\n"))),
    ("loop", lambda record: Reply(302, headers={"Location": f"{record.path}?{QUERY}"})),
    ("other scheme", lambda record: Reply(302, headers={"Location": f"ftp://{USERINFO}host/f?{QUERY}"})),
    ("broken port", lambda record: Reply(302, headers={"Location": f"http://{USERINFO}host:99999/f?{QUERY}"})),
    ("unknown host", lambda record: Reply(302, headers={"Location": f"http://{USERINFO}nowhere.example/?{QUERY}"})),
    ("refused port", lambda record: Reply(302, headers={"Location": f"http://{USERINFO}127.0.0.1:1/?{QUERY}"})),
    ("private host", lambda record: Reply(302, headers={"Location": f"http://{USERINFO}10.0.0.1/?{QUERY}"})),
    ("retry after", lambda record: Reply(503, headers={"Retry-After": _echo(record)})),
    ("cookie, then an error", lambda record: Reply(500, headers={"Set-Cookie": f"id={CANARY}; Path=/"})),
    ("expired", lambda record: Reply(403, b"<Code>ExpiredToken</Code>" + _echo(record).encode())),
]


class Search:
    """Looks for canaries in whatever comes out."""

    def __init__(self) -> None:
        self.looked = 0

    def __call__(self, where: str, found: object) -> None:
        data = found if isinstance(found, bytes) else str(found).encode("utf-8", "surrogateescape")
        self.looked += 1
        for needle in NEEDLES:
            at = data.find(needle)
            assert at < 0, f"{where} has a secret: …{data[max(0, at - 200) : at + 60]!r}…"

    def error(self, error: BaseException | None, seen: tuple[int, ...] = ()) -> None:
        """Search an error and all it came from."""
        if error is None or id(error) in seen:
            return
        where = f"{type(error).__name__}"
        self(where, error)
        self(f"repr of {where}", repr(error))
        self(f"args of {where}", error.args)
        self(f"attributes of {where}", {key: value for key, value in vars(error).items() if key != "frame"})
        self(f"traceback of {where}", "".join(traceback.format_exception(error)))
        for further in (error.__cause__, error.__context__):
            self.error(further, (*seen, id(error)))

    def folder(self, root: Path) -> None:
        """Search the names and the bytes of all files."""
        for path in root.rglob("*"):
            self("a name", path)
            if path.is_file():
                self(f"{path.name}", path.read_bytes())


class Listener:
    """Keeps errors, and the names of parts as long as they are there."""

    def __init__(self, root: Path) -> None:
        self._parts = root / ".framefetch" / "parts"
        self.errors: list[BaseException] = []
        self.shown: set[str] = set()

    def __call__(self, event: object) -> None:
        self.shown.add(repr(event))
        self.shown.update(entry.name for entry in os.scandir(self._parts))
        if isinstance(event, FileFinished) and event.outcome.error is not None:
            self.errors.append(event.outcome.error)


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    resolver = Resolver(nowhere_example=[NO_SUCH_NAME])
    monkeypatch.setattr(framefetch.sources.names, "Addresses", functools.partial(Addresses, resolver=resolver))
    monkeypatch.setattr("framefetch.ui.progress.LINE_SECONDS", 0)


def _rows(warehouse: WarehouseThread, userinfo: str) -> pd.DataFrame:
    """Return a row for every fault."""
    faults = [param.values[0] for param in CASES]
    rows = []
    for at, fault in enumerate(faults):
        warehouse.add(f"/case{at}.nwb", CONTENT)
        warehouse.script(f"/case{at}.nwb", *fault.answers, then=fault.then)
        rows.append({"url": f"/case{at}.nwb", **fault.table})
    for at, (_, answer) in enumerate(ECHOES):
        warehouse.script(f"/echo{at}.nwb", answer)
        rows.append({"url": f"/echo{at}.nwb"})
    table = pd.DataFrame(rows)
    table["url"] = [warehouse.url(f"{path}?id={at}&{QUERY}") for at, path in enumerate(table["url"])]
    table["url"] = table["url"].str.replace("://", f"://{userinfo}", regex=False)
    # Rows that are invalid, and hosts that are not there.
    more = [f"ftp://{USERINFO}host/f?{QUERY}", f"http://{USERINFO}ho st/f?{QUERY}", f"http://{USERINFO}h:99999/{QUERY}"]
    more += [f"http://{USERINFO}127.0.0.1:1/a.nwb?{QUERY}", f"http://{USERINFO}nowhere.example/b.nwb?{QUERY}"]
    more += [f"https://{USERINFO}nowhere.example/c.nwb?{QUERY}"]
    more += [warehouse.url(f"/other.nwb?{QUERY}").replace("://", f"://{USERINFO}") + " not-a-mirror"]
    return pd.concat([table, pd.DataFrame({"url": more})], ignore_index=True)


WAYS = {
    "a login in the URL": (USERINFO, {"X-Api-Key": HEADERS["X-Api-Key"]}, ""),
    "headers": ("", HEADERS | {"Authorization": f"Bearer {CANARY}-bearer"}, ""),
    "netrc": ("", HEADERS, ""),
    "a proxy": ("", HEADERS, USERINFO),
}


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize("way", WAYS)
def test_no_secret_leaves(
    way: str,
    warehouse: WarehouseThread,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    note: Callable[..., None],
) -> None:
    userinfo, headers, proxy = WAYS[way]
    caplog.set_level("DEBUG")
    if way == "netrc":
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    if proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://{proxy}127.0.0.1:{warehouse.port}")
    table = _rows(warehouse, userinfo)
    root = tmp_path / "cache"
    listener, stream, search = Listener(root), io.StringIO(), Search()
    observers = (listener, Progress(stream))
    options = Options(retry=RETRY, timeouts=TIMEOUTS, headers=headers, observers=observers)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with MetadataCache(table, root, options=options) as cache:
            for shown in (cache.plan(table), result := cache.mirror(table), cache.mirror(table)):
                search("frame", shown.frame.to_csv())
                search("HTML", shown._repr_html_())
                search("repr", repr(shown))
                search("summary", shown.summary())
            search("findings", cache.verify("hash"))
            with pytest.raises(FetchFailed) as failed:
                result.raise_for_failures()
            with pytest.raises(FetchFailed) as one:
                cache.get_file(table["url"].iloc[-2])
            cache.update_manifest()
            search.folder(root)  # while the database's log is there
            search("objects", repr((cache, options)))
    search.folder(root)
    for error in (failed.value, one.value, *listener.errors):
        search.error(error)
    search("failed", failed.value.frame.to_csv())
    for report in ("r.csv", "r.json", "r.parquet"):
        write_report(result.frame, str(tmp_path / report))
        search(report, (tmp_path / report).read_bytes())
    _search_what_was_said(search, listener, stream, told, caplog, capfd)
    sent = "".join(f"{record.target}{record.headers}" for record in warehouse.log)
    assert {f"{CANARY}-t", f"{CANARY}-s"} <= set(sent.replace("=", "&").split("&")), "or there was nothing to find"
    assert (f"{CANARY}-bearer" in sent) if way == "headers" else (LOGIN in sent)
    assert len(listener.errors) > 100
    note("128", f"every fault, canaries in {way}; {search.looked:,} places", "0 found", warehouse.count())


def _search_what_was_said(
    search: Search,
    listener: Listener,
    stream: io.StringIO,
    told: Iterable[warnings.WarningMessage],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    search("progress", stream.getvalue())
    assert "files, " in stream.getvalue()
    for shown in listener.shown:
        search("an event or a part", shown)
    for warning in told:
        search("warning", warning.message)
    search("log", caplog.text)
    for record in caplog.records:
        search("log", (record.getMessage(), record.args))
    search("terminal", "".join(capfd.readouterr()))


@pytest.mark.usefixtures("_environment")
def test_no_secret_leaves_the_command(warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]) -> None:
    for at, (_, answer) in enumerate(ECHOES):
        warehouse.script(f"/echo{at}.nwb", answer)
    table = pd.DataFrame({"url": [warehouse.url(f"/echo{at}.nwb?{QUERY}") for at in range(len(ECHOES))]})
    table["url"] = table["url"].str.replace("://", f"://{USERINFO}", regex=False)
    table.to_csv(tmp_path / "table.csv", index=False)
    search = Search()
    words = [
        sys.executable,
        "-m",
        "framefetch",
        "mirror",
        tmp_path / "table.csv",
        tmp_path / "cache",
        "--attempts",
        "1",
    ]
    words += ["--header", f"X-Api-Key: {CANARY}-key", "--stall-timeout", "0.5", "--report", tmp_path / "report.csv"]
    for more in ([], ["--json"], ["--dry-run"], ["--dry-run", "--json"]):
        done = subprocess.run([*words, *more], capture_output=True, timeout=40)
        assert done.returncode == (0 if "--dry-run" in more else 1), done.stderr
        search("output", done.stdout + done.stderr)
        search("report", (tmp_path / "report.csv").read_bytes())
    search.folder(tmp_path / "cache")
    assert CANARY in str(warehouse.log[0].headers)
    note("128", "the command, its reports and its output", "0 found", warehouse.count())


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"x{CANARY}y")
    with pytest.raises(AssertionError, match="file has a secret"):
        Search().folder(tmp_path)
    error = ValueError("fine")
    error.__context__ = KeyError(basic("me", f"a{CANARY}z"))
    with pytest.raises(AssertionError, match="has a secret"):
        Search().error(error)
