"""The commands that look after a cache, as a user runs them: a process, its exit code, its two streams."""

import contextlib
import hashlib
import json
import os
import pty
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pandas as pd
import pytest

from framefetch import MetadataCache
from framefetch.store.folder import CacheFolder
from framefetch.ui.progress import Reading
from framefetch.ui.report import write_report
from framefetch.warehouse import hold
from tests.store.builders import fill, query, request
from tests.store.builders import hold as hold_file
from tests.ui.test_cli import framefetch


@pytest.fixture
def cache(stocked, tmp_path: Path) -> Path:
    """Make a cache of eight files, with the table beside it, also as one that keeps three of them."""
    _, frame, _ = stocked
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame.head(3).to_csv(tmp_path / "three.csv", index=False)
    assert framefetch("mirror", tmp_path / "table.csv", tmp_path / "cache", "--quiet").returncode == 0
    return tmp_path / "cache"


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "v0").iterdir())


def test_prune_says_and_then_does(cache, tmp_path) -> None:
    dry = framefetch("prune", "--dry-run", "--keep", tmp_path / "three.csv", cache)
    assert dry.returncode == 0
    assert dry.stdout.splitlines() == [f"would remove\tv0/{at}.nwb" for at in range(103, 108)]
    assert "would remove 5 files, 15.0 kB; 3 are wanted" in dry.stderr
    assert len(names(cache)) == 8
    done = framefetch("prune", cache, "--keep", tmp_path / "three.csv", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "removed": [f"v0/{at}.nwb" for at in range(103, 108)], "bytes": 15_025, "kept": 3, "parts": 0, "left": [],
        "dry_run": False,
    }  # fmt: skip
    assert names(cache) == ["100.nwb", "101.nwb", "102.nwb"]
    assert framefetch("verify", cache, "--hash").returncode == 0


def test_prune_keeps_what_a_query_finds(cache, tmp_path) -> None:
    words = ["prune", cache, "--keep", tmp_path / "table.csv", "--where", "name == 'file 1'", "--yes"]
    assert framefetch(*words).returncode == 0
    assert names(cache) == ["101.nwb"]


def test_prune_leaves_what_was_edited_and_says_so(cache, tmp_path) -> None:
    (cache / "v0" / "105.nwb").write_bytes(b"my work")
    done = framefetch("prune", cache, "--keep", tmp_path / "three.csv")
    assert done.returncode == 1
    assert "changed\tv0/105.nwb\trecorded with 3,005 bytes, has 7" in done.stdout
    assert "1 are left, because they are not as recorded" in done.stderr
    assert names(cache) == ["100.nwb", "101.nwb", "102.nwb", "105.nwb"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wkf\n", "expected a table that names files, got 0 rows that name none"),
        ("wkf\n\n,\n", "that name none"),
        ("other\nx\n", "URL"),
    ],
)
def test_prune_does_nothing_for_a_table_that_names_nothing(cache, tmp_path, content, message) -> None:
    (tmp_path / "odd.csv").write_text(content)
    done = framefetch("prune", cache, "--keep", tmp_path / "odd.csv", "--yes")
    assert done.returncode == 2
    assert message in done.stderr
    assert framefetch("prune", cache).returncode == 2, "without --keep"
    assert len(names(cache)) == 8


@pytest.mark.parametrize("words", [[], ["--dry-run"], ["--yes"], ["--dry-run", "--json"]])
def test_prune_refuses_a_table_that_wants_nothing_of_what_is_held(cache, tmp_path, words) -> None:
    """A server that was renamed in the table would else cost the whole cache."""
    frame = pd.read_csv(tmp_path / "table.csv")
    frame["wkf"] = frame["wkf"].str.replace("127.0.0.1", "renamed")
    frame.to_csv(tmp_path / "renamed.csv", index=False)
    done = framefetch("prune", cache, "--keep", tmp_path / "renamed.csv", *words, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    for said in ("names none of them; nothing is removed", "--key-column", "--version", "--host-map", f"{cache}/v0"):
        assert said in done.stderr
    assert len(names(cache)) == 8


def test_a_table_with_keys_of_its_own_is_meant_by_every_command(stocked, tmp_path) -> None:
    warehouse, frame, contents = stocked
    digests = [f"sha256:{hashlib.sha256(body).hexdigest()}" for body in contents.values()]
    frame.assign(id=range(11, 19), sum=digests).to_csv(tmp_path / "table.csv", index=False)
    pd.read_csv(tmp_path / "table.csv").head(3).to_csv(tmp_path / "three.csv", index=False)
    keyed = ["--key-column", "id", "--digest-column", "sum"]
    assert framefetch("mirror", tmp_path / "table.csv", tmp_path / "c", *keyed, "--quiet").returncode == 0
    held = query(tmp_path / "c", "SELECT key, verified FROM entries ORDER BY key")
    assert held == [(str(key), "digest") for key in range(11, 19)]
    unkeyed = framefetch("mirror", tmp_path / "table.csv", tmp_path / "c", "--quiet", "--report", tmp_path / "r.csv")
    assert unkeyed.returncode == 1
    assert pd.read_csv(tmp_path / "r.csv")["error"].str.contains("is held for another key, 11;").any()
    assert framefetch("prune", tmp_path / "c", "--keep", tmp_path / "three.csv").returncode == 2
    assert framefetch("prune", tmp_path / "c", "--keep", tmp_path / "three.csv", *keyed).returncode == 0
    assert names(tmp_path / "c") == ["100.nwb", "101.nwb", "102.nwb"]
    for path in (tmp_path / "c").glob("manifest.sqlite*"):
        path.unlink()
    assert framefetch("rebuild", tmp_path / "c", "--table", tmp_path / "table.csv", *keyed).returncode == 0
    again = framefetch("mirror", tmp_path / "three.csv", tmp_path / "c", *keyed, "--json", "--quiet")
    assert json.loads(again.stdout)["cached"] == 3
    assert warehouse.count() == 8


def test_rows_that_cannot_be_used_still_name_their_files(cache, tmp_path) -> None:
    """A size that is none is a reason not to fetch a file, and none to remove it."""
    frame = pd.read_csv(tmp_path / "three.csv")
    frame["size"] = ["x", "3001", "3002"]
    frame.loc[len(frame), "wkf"] = None
    frame.to_csv(tmp_path / "odd.csv", index=False)
    assert framefetch("prune", cache, "--keep", tmp_path / "odd.csv", "--yes").returncode == 0
    assert names(cache) == ["100.nwb", "101.nwb", "102.nwb"]


def test_prune_does_nothing_where_a_row_may_name_a_file_by_half(cache, tmp_path) -> None:
    """What base_url completes is not known without it; what can be no file of ours, such as S3's, takes none away."""
    frame = pd.read_csv(tmp_path / "three.csv")
    frame.loc[len(frame), "wkf"] = "s3://bucket/x.nwb"
    frame.to_csv(tmp_path / "odd.csv", index=False)
    frame.loc[len(frame), "wkf"] = "105"
    frame.to_csv(tmp_path / "half.csv", index=False)
    done = framefetch("prune", cache, "--keep", tmp_path / "half.csv", "--yes")
    assert done.returncode == 2
    assert "1 of 5 rows cannot be used, so nobody knows which files they name: row 4, column 'wkf'" in done.stderr
    assert len(names(cache)) == 8
    done = framefetch("prune", cache, "--keep", tmp_path / "odd.csv", "--yes")
    assert done.returncode == 0
    assert names(cache) == ["100.nwb", "101.nwb", "102.nwb"]


def on_a_terminal(answer: str, *words: object) -> tuple[int, str, str]:
    """Run a command whose questions are answered."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "framefetch", *words]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.write(ours, answer.encode())
    out, err = process.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)
    return process.returncode, out, err


@pytest.mark.parametrize(("answer", "left", "code"), [("n\n", 8, 1), ("\n", 8, 1), ("y\n", 3, 0)])
def test_on_a_terminal_prune_says_what_would_go_and_asks(cache, tmp_path, answer, left, code) -> None:
    returned, _, err = on_a_terminal(answer, "prune", cache, "--keep", tmp_path / "three.csv")
    assert returned == code
    named = [f"framefetch:   v0/{at}.nwb" for at in range(103, 108)]
    assert err.splitlines()[:6] == [*named, "framefetch: would remove 5 files, 15.0 kB; 3 are wanted"]
    assert "Remove them?" in err
    assert len(names(cache)) == left


def test_prune_names_only_some_of_many_before_it_asks(tmp_path) -> None:
    with CacheFolder(tmp_path / "c") as folder:
        for at in range(25):
            hold_file(folder, request(f"v0/{at:02}"), b"x")
    (tmp_path / "keep.csv").write_text("url\nhttp://host/00\n")
    code, out, err = on_a_terminal("n\n", "prune", tmp_path / "c", "--keep", tmp_path / "keep.csv")
    assert (code, out) == (1, "")
    named = [f"framefetch:   v0/{at:02}" for at in range(1, 21)]
    assert err.splitlines()[:21] == [*named, "framefetch:   … and 4 more; --dry-run names them all"]
    assert len(names(tmp_path / "c")) == 25


def test_where_nothing_is_to_go_prune_asks_nothing_and_says_so_once(cache, tmp_path) -> None:
    code, out, err = on_a_terminal("", "prune", cache, "--keep", tmp_path / "table.csv")
    assert (code, out, err) == (0, "", "framefetch: removed 0 files, 0 B; 8 are wanted\n")


def test_rebuild_makes_a_damaged_manifest_anew(cache, tmp_path) -> None:
    manifest = cache / "manifest.sqlite"
    manifest.write_bytes(b"<html>" + manifest.read_bytes()[6:])
    assert framefetch("status", cache).returncode == 3
    done = framefetch("rebuild", cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "8 files held, 0 of them newly recorded; 0 entries forgotten, 0 files unexplained\n"
    assert "kept as manifest.sqlite.corrupt-1" in done.stderr
    assert framefetch("verify", cache).returncode == 0
    assert json.loads(framefetch("status", cache, "--json").stdout)["files"] == 8


def test_files_behind_a_link_are_told_of(cache) -> None:
    (cache / "v0").rename(cache.parent / "moved")
    (cache / "v0").symlink_to("../moved")
    detail = "a link stands at v0; nothing is held behind one"
    for words in (["verify"], ["verify", "--hash"], ["rebuild"]):
        done = framefetch(*words, cache)
        assert done.returncode == 1
        assert f"blocked\tv0/100.nwb\t{detail}\n" in done.stdout
    assert "0 files held, 0 of them newly recorded; 9 files cannot be read, 0 entries forgotten" in done.stdout


def test_rebuild_by_a_table_and_then_nothing_is_fetched(stocked, cache, tmp_path) -> None:
    warehouse, frame, contents = stocked

    frame["md5"] = [hashlib.md5(contents[url]).hexdigest() for url in frame["wkf"]]
    frame.to_csv(tmp_path / "stated.csv", index=False)
    (cache / "manifest.sqlite").unlink()
    (cache / "v0" / "stray").write_bytes(b"?")
    lost = framefetch("status", cache)
    assert lost.returncode == 3
    assert f"'framefetch rebuild {cache}' makes its manifest anew" in lost.stderr
    asked = warehouse.count()
    done = framefetch("rebuild", cache, "--table", tmp_path / "stated.csv", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["held"], report["adopted"]) == (8, 8)
    assert [(finding["kind"], finding["path"]) for finding in report["findings"]] == [("unknown", "v0/stray")]
    again = framefetch("mirror", tmp_path / "table.csv", cache, "--json", "--quiet")
    assert json.loads(again.stdout)["cached"] == 8
    assert warehouse.count() == asked
    assert (cache / "v0" / "stray").read_bytes() == b"?"


def test_files_of_a_version_that_nothing_explains_are_told_of(stocked, cache, tmp_path) -> None:
    _, frame, contents = stocked
    frame["md5"] = [hashlib.md5(body).hexdigest() for body in contents.values()]
    frame.to_csv(tmp_path / "stated.csv", index=False)
    assert framefetch("mirror", tmp_path / "three.csv", cache, "--version", "v1").returncode == 0
    for path in cache.glob("manifest.sqlite*"):
        path.unlink()
    done = framefetch("rebuild", cache, "--table", tmp_path / "stated.csv", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["held"], report["adopted"]) == (8, 8)
    unknown = [(finding["kind"], finding["path"]) for finding in report["findings"]]
    assert unknown == [("unknown", f"v1/{at}.nwb") for at in (100, 101, 102)]
    verified = framefetch("verify", cache)
    assert (verified.returncode, verified.stdout.count("\n")) == (1, 1)
    assert verified.stdout.startswith("unknown\tv1\t")
    done = framefetch("rebuild", cache, "--table", tmp_path / "stated.csv", "--version", "v1")
    assert done.returncode == 0, done.stdout
    assert framefetch("verify", cache).returncode == 0


def test_rebuild_is_not_for_any_folder(tmp_path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    done = framefetch("rebuild", tmp_path / "home")
    assert done.returncode == 3
    assert "expected a cache that 'framefetch mirror' made" in done.stderr
    assert os.listdir(tmp_path / "home") == ["letter.txt"]
    assert framefetch("rebuild", tmp_path / "nowhere").returncode == 3


def test_an_interrupt_ends_a_long_reading(cache) -> None:
    """A file of a sparse terabyte takes a while to read."""
    with (cache / "v0" / "100.nwb").open("r+b") as file:
        file.truncate(1 << 40)
    connection = sqlite3.connect(cache / "manifest.sqlite")
    with connection:
        connection.execute(f"UPDATE entries SET size = {1 << 40} WHERE path = 'v0/100.nwb'")
    connection.close()
    command = [sys.executable, "-m", "framefetch", "verify", cache, "--hash"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until_open(process.pid, "100.nwb")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=5)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err


def wait_until_open(process: int, name: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if os.readlink(descriptor).endswith(name):
                    return
    raise TimeoutError(name)


class Lines:
    """A stderr that is no terminal."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_reading_is_shown_a_line_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr("framefetch.ui.progress.LINE_SECONDS", 0.0)
    out = Lines()
    with Reading(None, out) as reading:
        reading.advance(1_000_000)
        reading.advance(500_000)
    lines = out.text.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("framefetch: read 2 files, 1.5 MB, ")


def test_reading_is_shown_live_on_a_terminal(cache) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "framefetch", "verify", cache, "--hash"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, timeout=30, env=os.environ | {"TERM": "xterm"}
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert (done.returncode, done.stdout) == (0, b"")
    assert "framefetch" in shown


def test_verify_says_who_is_fetching_meanwhile(stocked, cache, tmp_path) -> None:
    warehouse, *_ = stocked
    pd.DataFrame({"url": [warehouse.add("/more.nwb", b"\x89HDF\r\n\x1a\n")]}).to_csv(tmp_path / "more.csv", index=False)
    warehouse.script("/more.nwb", hold())
    process = subprocess.Popen([sys.executable, "-m", "framefetch", "mirror", tmp_path / "more.csv", cache, "--quiet"])
    warehouse.wait_for("/more.nwb")
    done = framefetch("verify", cache)
    warehouse.release()
    assert process.wait(timeout=30) == 0
    assert done.returncode == 0
    assert f"process {process.pid} on " in done.stderr
    assert "is fetching into this cache" in done.stderr
    assert "is fetching" not in framefetch("verify", cache).stderr


@pytest.mark.parametrize("command", ["verify", "rebuild"])
def test_a_name_that_is_no_text_is_shown_escaped_and_belongs_to_nobody(stocked, cache, tmp_path, command) -> None:
    """Not even where its bytes are those of a file of the table: its row would name another path."""
    _, frame, contents = stocked
    body = contents[frame["wkf"].iloc[0]]
    (cache / "v0" / "100.nwb").rename(os.fsdecode(os.fsencode(cache / "v0") + b"/caf\xe9.nwb"))
    frame["md5"] = [hashlib.md5(content).hexdigest() for content in contents.values()]
    frame.to_csv(tmp_path / "table.csv", index=False)
    words = [command, cache, *(["--table", tmp_path / "table.csv"] if command == "rebuild" else [])]
    done = framefetch(*words)
    assert done.returncode == 1
    assert "unknown\tv0/caf\\udce9.nwb\t" in done.stdout
    assert "Traceback" not in done.stderr
    assert os.path.getsize(os.fsencode(cache / "v0") + b"/caf\xe9.nwb") == len(body)
    assert json.loads(framefetch("status", cache, "--json").stdout)["files"] == (8 if command == "verify" else 7)


def shell(line: str, **paths: object) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does, with the streams that it is given there."""
    quoted = {name: shlex.quote(str(path)) for name, path in paths.items()}
    line = line.replace("framefetch", f"{shlex.quote(sys.executable)} -m framefetch").format(**quoted)
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["status {cache}", "status {cache} --json", "verify {cache} --json"])
def test_output_that_cannot_be_written_is_said_and_is_a_failure(cache, command) -> None:
    done = shell(f"framefetch {command} > /dev/full", cache=cache)
    assert (done.returncode, done.stderr) == (1, "framefetch: writing the output: No space left on device\n")


def test_streams_that_are_closed_are_nothing_and_no_file_gets_their_numbers(cache, tmp_path) -> None:
    closed = shell("framefetch verify {cache} 2>&-", cache=cache)
    assert (closed.returncode, closed.stdout) == (0, "")
    table, fresh = tmp_path / "table.csv", tmp_path / "fresh"
    mirrored = shell("framefetch mirror {table} {fresh} --json 2>&- <&-", table=table, fresh=fresh)
    assert mirrored.returncode == 0
    assert json.loads(mirrored.stdout)["downloaded"] == 8
    assert shell("framefetch mirror {table} {fresh} >&- 2>&- <&-", table=table, fresh=fresh).returncode == 0
    assert framefetch("verify", fresh, "--hash").returncode == 0
    pruned = shell("framefetch prune {cache} --keep {three} <&-", cache=cache, three=tmp_path / "three.csv")
    assert (pruned.returncode, len(names(cache))) == (0, 3), pruned.stderr


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_report_that_cannot_be_written_hides_nothing_else(cache, tmp_path, disk, dry) -> None:
    place = disk("size=64k")
    words = ["mirror", tmp_path / "table.csv", cache, "--json", "--report", place / "full.csv", *dry]
    fill(place)
    done = framefetch(*words, "--report", tmp_path / "good.csv")
    assert done.returncode == 3
    assert json.loads(done.stdout)["rows"] == 8
    assert f"framefetch: writing {place / 'full.csv'}: No space left" in done.stderr
    assert len(pd.read_csv(tmp_path / "good.csv")) == 8
    assert os.listdir(place) == ["filler"]


def test_a_report_that_can_never_be_written_is_known_before_the_first_request(stocked, tmp_path, disk) -> None:
    warehouse, frame, _ = stocked
    frame.to_csv(tmp_path / "table.csv", index=False)
    place = disk("size=64k")
    (place / "old.csv").write_text("older")
    (tmp_path / "taken.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(place / "old.csv")
    disk("ro")
    refused = {place / "new.csv": "it may not be written there", place / "old.csv": "it may not be written there"}
    refused |= {tmp_path / "link.csv": "it may not be written", tmp_path / "taken.csv": "this is a folder"}
    for target, message in refused.items():
        done = framefetch("mirror", tmp_path / "table.csv", tmp_path / "new", "--report", target)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"--report {target}: " in done.stderr
        assert message in done.stderr
    assert warehouse.count() == 0


def test_levels_of_an_index_get_names_that_no_column_has(stocked, tmp_path) -> None:
    _, frame, _ = stocked
    levels = {"path": range(8), "a": range(10, 18), "index_path": range(20, 28), "b": range(30, 38)}
    table = frame.assign(**levels).set_index(list(levels))
    table.index.names = ["path", "path", "index_path", None]
    table.to_parquet(tmp_path / "t.parquet")
    suffixes = ("csv", "parquet", "json", "html")
    reports = [word for suffix in suffixes for word in ("--report", tmp_path / f"r.{suffix}")]
    with MetadataCache(table, tmp_path / "c") as cache:
        result = cache.mirror(table)
        for suffix in suffixes:
            write_report(result.frame, str(tmp_path / f"r.{suffix}"))
    written = pd.read_csv(tmp_path / "r.csv")
    assert list(written)[:5] == ["index_path", "index_index_path", "index_index_index_path", "index_3", "status"]
    assert written.iloc[7, :4].tolist() == [7, 17, 27, 37]
    assert written["path"].tolist() == result.frame["path"].tolist()
    assert list(pd.read_parquet(tmp_path / "r.parquet")) == list(json.loads((tmp_path / "r.json").read_text())[0])
    single = frame.assign(url="x").set_index("url")
    single.to_parquet(tmp_path / "single.parquet")
    done = framefetch("mirror", tmp_path / "single.parquet", tmp_path / "c", *reports)
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(tmp_path / "r.csv"))[:2] == ["index_url", "status"]


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet", "html"])
def test_a_path_that_is_no_text_is_escaped_in_a_report(stocked, tmp_path, suffix) -> None:
    _, frame, _ = stocked
    frame.to_csv(tmp_path / "table.csv", index=False)
    report = tmp_path / f"r.{suffix}"
    done = framefetch("mirror", tmp_path / "table.csv", os.fsdecode(bytes(tmp_path) + b"/caf\xe9"), "--report", report)
    assert done.returncode == 0, done.stderr
    text = str(pd.read_parquet(report)["path"][0]) if suffix == "parquet" else report.read_text()
    assert "caf\\udce9" in text.replace("\\\\", "\\")


@pytest.mark.parametrize("target", ["-", "/proc/self/fd/1"])
def test_an_export_to_stdout_is_nothing_but_the_manifest(cache, tmp_path, target) -> None:
    piped = framefetch("export", cache, target)
    assert (piped.returncode, piped.stderr) == (0, "framefetch: 8 entries written\n")
    assert len(json.loads(piped.stdout)["v0"]) == 8
    into_a_file = shell("framefetch export {cache} {target} > {out}", cache=cache, target=target, out=tmp_path / "out")
    assert into_a_file.returncode == 0
    assert (tmp_path / "out").read_text() == piped.stdout
    gone = shell("framefetch export {cache} {target} | true", cache=cache, target=target)
    assert "Traceback" not in gone.stderr
    full = shell("framefetch export {cache} {target} > /dev/full", cache=cache, target=target)
    assert (full.returncode, full.stderr) == (1, "framefetch: writing the output: No space left on device\n")


def test_a_page_shows_each_row_and_no_markup_of_the_table(cache, tmp_path) -> None:
    frame = pd.read_csv(tmp_path / "table.csv")
    frame.loc[1, "wkf"] = "<script>alert(1)</script>"
    frame.to_csv(tmp_path / "marked.csv", index=False)
    reports = ["--report", tmp_path / "r.html", "--report", tmp_path / "r.json"]
    done = framefetch("mirror", tmp_path / "marked.csv", cache, *reports)
    assert done.returncode == 1
    page = (tmp_path / "r.html").read_text()
    names, *cells = [
        [cell.text for cell in row]
        for row in ET.fromstring(page[page.index("<table") : page.index("</body>")]).iter("tr")
    ]
    written = json.loads((tmp_path / "r.json").read_text())
    assert names == list(written[0])
    for name in ("status", "error", "path"):
        assert [row[names.index(name)] for row in cells] == [row[name] for row in written]
    assert "<script>" in written[1]["error"]
    assert "<script" not in page


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet", "html"])
def test_a_report_goes_into_a_pipe_and_through_a_link(cache, tmp_path, suffix) -> None:
    """As a shell's `>(…)` has it, and as a link to a shared folder does."""
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    (tmp_path / f"link.{suffix}").symlink_to(f"real.{suffix}")
    reader = os.open(tmp_path / f"pipe.{suffix}", os.O_RDONLY | os.O_NONBLOCK)
    words = ["mirror", tmp_path / "table.csv", cache, "--report", tmp_path / f"pipe.{suffix}"]
    done = framefetch(*words, "--report", tmp_path / f"link.{suffix}")
    assert done.returncode == 0, done.stderr
    received = os.read(reader, 1 << 20)
    os.close(reader)
    assert received == (tmp_path / f"real.{suffix}").read_bytes()
    assert (tmp_path / f"pipe.{suffix}").is_fifo()
    assert (tmp_path / f"link.{suffix}").is_symlink()


def test_a_report_is_never_written_over_the_table(stocked, tmp_path) -> None:
    warehouse, frame, _ = stocked
    table, link = tmp_path / "table.csv", tmp_path / "link.csv"
    frame.to_csv(table, index=False)
    link.symlink_to(table)
    before = table.read_bytes()
    for words in ([table, "--report", table], [table, "--report", link], [link, "--report", table, "--dry-run"]):
        done = framefetch("mirror", words[0], tmp_path / "new", *words[1:])
        assert done.returncode == 2
        assert "this is the table itself, which would be lost; choose another name" in done.stderr
    assert table.read_bytes() == before
    assert link.is_symlink()
    assert warehouse.count() == 0


def test_what_the_cache_keeps_for_itself_is_not_written_over(stocked, cache, tmp_path) -> None:
    asked = stocked[0].count()
    (tmp_path / "link.json").symlink_to(cache / ".framefetch" / "x.json")
    own = [".framefetch/x.json", "manifest.json"]
    refused = [["mirror", tmp_path / "table.csv", cache, "--report", cache / path] for path in own]
    for target in (cache / "manifest.sqlite", cache / "manifest.sqlite-wal", tmp_path / "link.json"):
        refused.append(["export", cache, target])
    before = (cache / "manifest.sqlite").read_bytes()
    for words in refused:
        done = framefetch(*words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert "this is one of the cache's own; choose another name" in done.stderr
    assert (cache / "manifest.sqlite").read_bytes() == before
    assert not list((cache / ".framefetch").glob("x.json"))
    assert stocked[0].count() == asked
    assert framefetch("export", cache, cache / "manifest.json").returncode == 0
    assert framefetch("mirror", tmp_path / "table.csv", cache, "--report", cache / "report.csv").returncode == 0


def test_what_the_cache_holds_is_not_written_over(stocked, tmp_path) -> None:
    """Nor is anything put where files of a version belong: a later row's file may be meant to stand there."""
    warehouse, _, contents = stocked
    body = next(iter(contents.values()))
    url = warehouse.add("/table.csv", body)
    (tmp_path / "t.csv").write_text(f"url,path\n{url},x.csv\n")
    cache = tmp_path / "c"
    words = ["mirror", tmp_path / "t.csv", cache, "--path-template", "{path}", "--no-content-check"]
    assert framefetch(*words, "--version", "old").returncode == 0
    (cache / "loose.json").write_bytes(body)
    layout = {"v9": {"http://host/loose": {"file_path": "loose.json", "md5_checksum": hashlib.md5(body).hexdigest()}}}
    (tmp_path / "older.json").write_text(json.dumps(layout))
    assert framefetch("import", cache, tmp_path / "older.json").returncode == 0
    (cache / "v0").mkdir()
    (tmp_path / "link.csv").symlink_to(cache / "old" / "x.csv")
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.suffix in (".csv", ".json")}
    targets = [cache / "old" / "x.csv", tmp_path / "link.csv", cache / "old" / "new.csv", cache / "loose.json"]
    for target in (*targets, cache / "v0" / "y.csv"):
        for dry in ([], ["--dry-run"]):
            done = framefetch(*words, "--report", target, *dry)
            assert (done.returncode, done.stdout) == (2, ""), done.stderr
            assert f"{target}: expected a file to write, this is where the cache holds files" in done.stderr
    for target in targets:
        done = framefetch("export", cache, target)
        assert (done.returncode, done.stdout) == (2, "")
        assert "this is where the cache holds files; choose another name" in done.stderr
    assert before == {path: path.read_bytes() for path in cache.rglob("*") if path.suffix in (".csv", ".json")}
    assert warehouse.count() == 1
    (cache / "reports").mkdir()
    assert framefetch(*words, "--report", cache / "reports" / "r.csv").returncode == 0


def test_paths_of_an_export_are_relative_to_the_cache_and_whoever_needs_it_is_told(cache, tmp_path) -> None:
    elsewhere, inside = tmp_path / "out" / "m.json", cache / "manifest.json"
    elsewhere.parent.mkdir()
    for target in (elsewhere, inside):
        done = framefetch("export", cache, target)
        assert done.stdout == f"8 entries written to {target}; their paths are relative to {cache}\n"
        for entry in json.loads(target.read_text())["v0"].values():
            assert (cache / entry["file_path"]).is_file()
    refused = framefetch("import", tmp_path / "new", elsewhere, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "0 entries imported, 8 skipped\n")
    assert refused.stderr.count("a relative file_path is looked for in the cache, beside the manifest and in the") == 8
    taken = framefetch("import", tmp_path / "new", inside, cwd=tmp_path)
    assert (taken.returncode, taken.stdout) == (0, "8 entries imported, 0 skipped\n")
    assert names(tmp_path / "new") == names(cache)
    assert "Each file_path is relative to the cache." in " ".join(framefetch("export", "--help").stdout.split())


def test_an_export_is_never_written_over_the_table(cache, tmp_path) -> None:
    before = (tmp_path / "table.csv").read_bytes()
    done = framefetch("export", cache, tmp_path / "table.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert "this is another file; remove it first, or choose another name" in done.stderr
    assert (tmp_path / "table.csv").read_bytes() == before
    for _ in range(2):
        assert framefetch("export", cache, tmp_path / "out.json").returncode == 0


def test_verify_says_that_all_is_well_and_json_is_a_list_as_its_help_says(cache) -> None:
    for words in ([], ["--hash"]):
        done = framefetch("verify", cache, *words)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "framefetch: 8 files, 24.0 kB: all as recorded\n"
    done = framefetch("verify", cache, "--json")
    assert (json.loads(done.stdout), done.stderr) == ([], "")
    (cache / "v0" / "100.nwb").unlink()
    done = framefetch("verify", cache)
    assert (done.returncode, done.stderr) == (1, "")
    (finding,) = json.loads(framefetch("verify", cache, "--json").stdout)
    assert list(finding) == ["kind", "path", "detail"]
    text = " ".join(framefetch("verify", "--help").stdout.split())
    assert "One JSON list on stdout: of each finding its kind, path and detail." in text


def test_prune_makes_room_on_a_full_disk(stocked, tmp_path, disk) -> None:
    _, frame, _ = stocked
    place = disk("size=4m")
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame.head(3).to_csv(tmp_path / "three.csv", index=False)
    assert framefetch("mirror", tmp_path / "table.csv", place / "c").returncode == 0
    fill(place)
    done = framefetch("prune", place / "c", "--keep", tmp_path / "three.csv", "--json")
    assert json.loads(done.stdout)["removed"] == [f"v0/{at}.nwb" for at in range(103, 108)]
    assert (done.returncode, names(place / "c")) == (0, ["100.nwb", "101.nwb", "102.nwb"])
    assert framefetch("verify", place / "c").stdout.count("missing\t") == 5, "20 kB are too few to change the manifest"
    (place / "filler").unlink()
    assert framefetch("prune", place / "c", "--keep", tmp_path / "three.csv").returncode == 0
    assert framefetch("verify", place / "c").returncode == 0


@pytest.mark.parametrize("link", [False, True])
def test_an_export_loses_no_manifest_that_is_not_taken_over(cache, tmp_path, link) -> None:
    older = tmp_path / "older.json" if link else cache / "manifest.json"
    older.write_text('{"v0": {}}')
    if link:
        (cache / "manifest.json").symlink_to(older)
    (cache / ".framefetch" / "taking-over").touch()
    for target in (cache / "manifest.json", older):
        done = framefetch("export", cache, target)
        assert (done.returncode, older.read_text()) == (3, '{"v0": {}}')
        assert "is not taken over to its end yet" in done.stderr
    assert "the next mirror goes on with it" in framefetch("status", cache).stderr
    assert framefetch("export", cache, tmp_path / "other.json").returncode == 0


def test_a_home_is_meant_by_every_command(stocked, tmp_path) -> None:
    _, table, _ = stocked
    home = {**os.environ, "HOME": str(tmp_path)}
    with MetadataCache(table, tmp_path / "cache") as cache:
        cache.mirror(table)
    for words in (["status"], ["verify"], ["rebuild"], ["export", "-"]):
        command = [sys.executable, "-m", "framefetch", words[0], "~/cache", *words[1:]]
        done = subprocess.run(command, env=home, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "~").exists()
