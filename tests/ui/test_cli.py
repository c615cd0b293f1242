"""The command line as a user runs it: a process, its exit code, its two streams."""

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from framefetch.ui.arguments import parse_amount
from framefetch.warehouse import Reply, Serve, WarehouseThread, hdf5_file, hold
from tests.conftest import needed

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def table(stocked, tmp_path: Path) -> tuple[WarehouseThread, Path, dict[str, bytes]]:
    warehouse, frame, contents = stocked
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    return warehouse, path, contents


def framefetch(*words: object, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "framefetch", *map(str, words)], capture_output=True, text=True, timeout=50, **settings
    )


def test_mirror_holds_everything_and_the_second_run_asks_nothing(table, tmp_path) -> None:
    warehouse, path, contents = table
    done = framefetch("mirror", path, tmp_path / "c")
    assert (done.returncode, done.stdout) == (0, "")
    assert "8 rows: 8 downloaded" in done.stderr
    assert {file.read_bytes() for file in (tmp_path / "c" / "v0").iterdir()} == set(contents.values())
    again = framefetch("mirror", path, tmp_path / "c", "--json", "--quiet")
    assert again.returncode == 0
    assert again.stderr == ""
    figures = json.loads(again.stdout)
    assert figures.pop("seconds") < 30
    assert figures == {
        "rows": 8, "files": 8, "downloaded": 0, "cached": 8, "failed": 0, "invalid": 0, "cancelled": 0,
        "bytes": 0, "requests": 0,
    }  # fmt: skip
    assert warehouse.count() == 8


def test_options_reach_their_rooms(table, tmp_path) -> None:
    warehouse, path, _ = table
    frame = pd.read_csv(path)
    frame["id"] = [100.0, 101.0, None, 103.0, 104.0, 105.0, 106.0, 107.0]
    frame["wkf"] = "not a URL"
    frame.to_csv(path, index=False)
    report = tmp_path / "report.csv"
    done = framefetch(
        "mirror", path, tmp_path / "c", "--json", "--version", "v7",
        "--url-template", "http://testwarehouse:9000/api/v2/well_known_file_download/{id}",
        "--host-map", f"testwarehouse:9000=127.0.0.1:{warehouse.port}",
        "--header", "X-Lab: seven", "--path-template", "{name}.h5", "--where", "name != 'file 1'", "--limit", "3",
        "--max-connections", "2", "--per-host", "1", "--bandwidth", "50M", "--attempts", "2", "--stall-timeout", "5",
        "--min-speed", "2K", "--lock-timeout", "3", "--verify", "hash",
        "--report", report, "--report", tmp_path / "r.json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["downloaded"] == 2
    assert sorted(file.name for file in (tmp_path / "c" / "v7").iterdir()) == ["file 0.h5", "file 3.h5"]
    assert {record.header("X-Lab") for record in warehouse.requests()} == {"seven"}
    assert warehouse.peak_concurrency == 1
    written = pd.read_csv(report)
    assert written["index"].tolist() == [0, 2, 3]
    assert written["status"].tolist() == ["downloaded", "invalid", "downloaded"]
    assert "row 2, column 'id'" in written["error"][1]
    assert written["url"][0] == "http://testwarehouse:9000/api/v2/well_known_file_download/100"
    assert len(json.loads((tmp_path / "r.json").read_text())) == 3


def test_many_rows_of_one_file_are_told_as_such(stocked, tmp_path) -> None:
    """A table whose ids all say "none", and a server that has something under that name."""
    warehouse, _, _ = stocked
    warehouse.add("-999", b"\x89HDF\r\n\x1a\n" + bytes(2000))
    pd.DataFrame({"file_id": [-999] * 12}).to_csv(tmp_path / "ids.csv", index=False)
    words = ("mirror", tmp_path / "ids.csv", tmp_path / "c", "--url-template", warehouse.url("-999")[:-4] + "{file_id}")
    dry = framefetch(*words, "--dry-run")
    assert dry.stdout.startswith("12 rows, 1 file: 12 rows to fetch (")
    assert f"framefetch: the URL template makes one URL of 12 rows: {warehouse.url('-999')}\n" in dry.stderr
    done = framefetch(*words)
    assert "12 rows, 1 file: 12 downloaded; 2.0 kB in 1 request, " in done.stderr
    assert warehouse.count() == 1
    assert "1 row: 1 cached; 0 B in 0 requests, " in framefetch(*words, "--limit", 1).stderr


def test_dry_run_sends_nothing(table, tmp_path) -> None:
    warehouse, path, _ = table
    done = framefetch("mirror", path, tmp_path / "c", "--dry-run", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout).keys() == {
        "rows", "files", "to_fetch", "held", "failed", "invalid", "bytes", "unknown_sizes", "free_space",
    }  # fmt: skip
    assert "8 rows to fetch" in framefetch("mirror", path, tmp_path / "c", "--dry-run").stdout
    assert warehouse.count() == 0


def test_a_dry_run_names_the_rows_that_would_fail(table, tmp_path) -> None:
    _, path, _ = table
    (tmp_path / "c" / "v0" / "100.nwb").mkdir(parents=True)
    done = framefetch("mirror", path, tmp_path / "c", "--dry-run")
    assert done.returncode == 1
    assert "7 rows to fetch (0 B and 7 of unknown size), 0 held, 1 would fail, 0 invalid" in done.stdout
    assert "a folder stands at v0/100.nwb" in done.stderr


def test_failed_rows_are_exit_code_1_and_named(table, tmp_path) -> None:
    warehouse, path, _ = table
    warehouse.script("100", Reply(404))
    done = framefetch("mirror", path, tmp_path / "c")
    assert done.returncode == 1
    assert "8 rows: 7 downloaded, 1 failed" in done.stderr
    assert f"framefetch:   row 0, {warehouse.url('100')}: expected status 200, got 404" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--url-column", "nope"], "the table has no column 'nope'; it has: name, wkf"),
        (["--where", "nope > 3"], "the query 'nope > 3' cannot be used"),
        (["--host-map", "x"], "expected OLD=NEW"),
        (["--bandwidth", "fast"], "expected bytes such as 500K"),
        (["--report", "r.doc"], "expected a file ending in .csv"),
        (["--verify", "maybe"], "expected stat, hash or none"),
        (["--version", "../x"], "expected a version that can name a folder"),
        (["--host-map", "http://me:c4n4ry@host"], "--host-map http://host: expected OLD=NEW"),
        (["--header", "no colon"], "expected 'Name: value'"),
        (["--header", "A: b\r\nc: d"], "characters that a header cannot hold"),
        (["--max-connections", "0"], "--max-connections"),
        (["--stall-timeout", "nan"], "framefetch: --stall-timeout: expected more than 0 seconds, got nan"),
        (["--stall-timeout", "-1"], "framefetch: --stall-timeout: expected more than 0 seconds, got -1.0"),
        (["--lock-timeout", "nan"], "framefetch: --lock-timeout must be 0 seconds or more, got nan"),
        (["--url-column", "a", "--url-template", "{b}"], "framefetch: --url-column and --url-template exclude each"),
        (["--base-url", "h"], "framefetch: --base-url: expected a URL such as"),
        (["--suffix", "/x"], "suffix: expected the end of a name"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(table, tmp_path, words, message) -> None:
    warehouse, path, _ = table
    done = framefetch("mirror", path, tmp_path / "c", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert warehouse.count() == 0


def test_messages_call_options_as_the_command_line_does(tmp_path) -> None:
    told = "or a --url-column or --url-template; the table has: URL; is it --url-column='URL'?"
    pd.DataFrame({"URL": ["http://h/a"]}).to_csv(tmp_path / "t.csv", index=False)
    assert told in framefetch("mirror", tmp_path / "t.csv", tmp_path / "c").stderr
    pd.DataFrame({"base_url": ["/a"]}).to_csv(tmp_path / "t.csv", index=False)
    for more in ((), ("--dry-run",)):
        done = framefetch("mirror", tmp_path / "t.csv", tmp_path / "c", "--url-column", "base_url", *more)
        assert "row 0, column 'base_url': expected a URL" in done.stderr
        assert "; a --base-url would complete it" in done.stderr


def test_tables_that_cannot_be_read_are_exit_code_2(tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00\x00,\x00")
    for name in ("missing.csv", "t.doc", "t.csv"):
        done = framefetch("mirror", tmp_path / name, tmp_path / "c")
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1


def test_fatal_errors_are_exit_code_3_and_say_what_was_done(table, tmp_path) -> None:
    warehouse, path, _ = table
    cache = tmp_path / "c"
    cache.mkdir()
    foreign = sqlite3.connect(cache / "manifest.sqlite")
    foreign.execute("CREATE TABLE notes (x)")
    foreign.close()
    theirs = (cache / "manifest.sqlite").read_bytes()
    done = framefetch("mirror", path, cache, "--json")
    assert done.returncode == 3
    assert "manifest.sqlite is another program's database; it was left as it is" in done.stderr
    assert (cache / "manifest.sqlite").read_bytes() == theirs
    assert warehouse.count() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_in_good_order(table, tmp_path, number, code) -> None:
    warehouse, path, _ = table
    warehouse.script("107", hold())
    report = tmp_path / "report.csv"
    process = subprocess.Popen(
        [sys.executable, "-m", "framefetch", "mirror", path, tmp_path / "c", "--json", "--report", report],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for at in range(7):
        warehouse.wait_for(str(100 + at), 1, "answered")
    warehouse.wait_for("107")
    process.send_signal(number)
    out, err = process.communicate(timeout=4)
    assert process.returncode == code, err
    figures = json.loads(out)
    assert figures["downloaded"] + figures["cancelled"] == 8
    assert figures["cancelled"] >= 1
    assert pd.read_csv(report)["status"].value_counts()["downloaded"] == figures["downloaded"]
    assert "Traceback" not in err
    warehouse.script("107", Serve())
    again = framefetch("mirror", path, tmp_path / "c", "--json")
    assert json.loads(again.stdout)["cached"] == figures["downloaded"]
    assert framefetch("verify", tmp_path / "c", "--hash").returncode == 0


def test_what_is_ignored_stays_ignored(table, tmp_path) -> None:
    """As `nohup` has it for SIGHUP, and a shell for SIGINT of what a script has in the background."""
    warehouse, path, _ = table
    warehouse.script("107", hold(), then=Serve())
    command = [sys.executable, "-m", "framefetch", "mirror", path, tmp_path / "c", "--json"]
    with subprocess.Popen(["nohup", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        warehouse.wait_for("107")
        process.send_signal(signal.SIGHUP)
        warehouse.release("107")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["downloaded"] == 8


def test_a_second_interrupt_ends_at_once(table, tmp_path) -> None:
    warehouse, path, _ = table
    warehouse.script_all(hold())
    process = subprocess.Popen(
        [sys.executable, "-m", "framefetch", "mirror", path, tmp_path / "c"], stderr=subprocess.PIPE
    )
    warehouse.wait_for(count=8)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=4)
    assert process.returncode == 130


def test_a_stderr_that_is_gone_stops_nothing(table, tmp_path) -> None:
    _, path, _ = table
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "framefetch", "mirror", path, tmp_path / "c", "--json"],
            stdout=subprocess.PIPE, stderr=writer, text=True, timeout=30,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert json.loads(done.stdout)["downloaded"] == 8


def test_status_verify_export_import(table, tmp_path) -> None:
    _, path, contents = table
    cache = tmp_path / "c"
    framefetch("mirror", path, cache)
    status = framefetch("status", cache, "--json")
    assert json.loads(status.stdout)["files"] == 8
    assert "8 files" in framefetch("status", cache).stdout
    assert (framefetch("verify", cache).returncode, framefetch("verify", cache).stdout) == (0, "")
    exported = tmp_path / "manifest.json"
    assert framefetch("export", cache, exported).returncode == 0
    entries = json.loads(exported.read_text())["v0"]
    assert entries.keys() == contents.keys()

    (cache / "v0" / "100.nwb").write_bytes(b"changed")
    (cache / "v0" / "101.nwb").unlink()
    (cache / "v0" / "stray.txt").write_text("?")
    findings = framefetch("verify", cache, "--hash", "--json")
    assert findings.returncode == 1
    assert sorted((finding["kind"], finding["path"]) for finding in json.loads(findings.stdout)) == [
        ("changed", "v0/100.nwb"), ("missing", "v0/101.nwb"), ("unknown", "v0/stray.txt"),
    ]  # fmt: skip

    old = {"v0": {url: {"file_path": str(cache / entry["file_path"]), **entry} for url, entry in entries.items()}}
    for entry in old["v0"].values():
        entry["file_path"] = str(cache / entry["file_path"])
    exported.write_text(json.dumps(old))
    imported = framefetch("import", tmp_path / "new", exported)
    assert imported.returncode == 1  # two of the eight are not what the manifest says
    assert "6 entries imported, 2 skipped" in imported.stdout
    assert framefetch("verify", tmp_path / "new", "--hash").returncode == 0


@pytest.mark.parametrize("command", ["status", "verify", "export"])
def test_folders_that_are_no_cache(tmp_path, command) -> None:
    words = [tmp_path / "out.json"] if command == "export" else []
    for folder in (tmp_path / "missing", tmp_path):
        done = framefetch(command, folder, *words)
        assert done.returncode == 3
        assert "expected a cache that 'framefetch mirror' made" in done.stderr
    assert not (tmp_path / "missing").exists()


def test_secrets_show_nowhere(stocked, tmp_path) -> None:
    warehouse, frame, _ = stocked
    canary = "c4n4ry"
    frame["wkf"] = (
        frame["wkf"].str.replace("http://", f"http://me:{canary}@") + f"?token={canary}&X-Amz-Signature={canary}"
    )
    warehouse.script("100", Reply(403))
    warehouse.script("101", Reply(302, headers={"Location": f"http://me:{canary}@127.0.0.1:1/?sig={canary}"}))
    path = tmp_path / "table.csv"
    frame.to_csv(path)
    words = ["--header", f"Authorization: Bearer {canary}", "--report", tmp_path / "r.csv", "--attempts", "1"]
    done = framefetch("mirror", path, tmp_path / "c", *words)
    assert "6 downloaded, 2 failed" in done.stderr
    assert warehouse.requests("102")[0].target.endswith(f"?token={canary}&X-Amz-Signature={canary}")
    framefetch("export", tmp_path / "c", tmp_path / "c" / "manifest.json")
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file != path]
    assert not any(canary.encode() in text for text in [*written, done.stderr.encode(), done.stdout.encode()])


def test_help_needs_no_pandas_and_no_aiohttp() -> None:
    code = "import sys, framefetch.ui.cli; print([m for m in ('pandas', 'aiohttp', 'rich') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    assert "--url-template" in framefetch("mirror", "--help").stdout


def test_the_demo_shows_what_it_claims(tmp_path) -> None:
    done = framefetch("demo", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert "First run: 20 downloaded, 0 cached, 20 requests" in done.stdout
    assert "Second run: 0 downloaded, 20 cached, 0 requests" in done.stdout
    assert framefetch("demo", tmp_path / "demo").returncode == 0  # and again in the same folder


@pytest.mark.parametrize(("text", "amount"), [("500", 500), ("1K", 1024), ("1.5m", 1.5 * 2**20), ("2GiB", 2**31)])
def test_amounts(text: str, amount: float) -> None:
    assert parse_amount(text, "--x") == amount


def test_a_whole_csv_is_mirrored_without_what_it_does_not_need(table, tmp_path) -> None:
    """pandas is for what a CSV alone does not say, aiohttp for tunnels, tenacity for what has failed."""
    warehouse, path, _ = table
    code = (
        "import sys, framefetch.ui.cli as cli\n"
        "try: cli.main()\n"
        "finally: print([name for name in ('pandas', 'aiohttp', 'tenacity') if name in sys.modules])"
    )

    def imported() -> tuple[int, str]:
        words = [sys.executable, "-c", code, "mirror", path, tmp_path / "c", "--quiet"]
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=50)
        return done.returncode, done.stdout

    assert imported() == (0, "[]\n")
    assert warehouse.count() > 0
    assert imported() == (0, "[]\n")


def test_a_failure_is_named_without_a_report(table, tmp_path) -> None:
    warehouse, path, _ = table
    frame = pd.read_csv(path)
    column = next(name for name in ("url", "wkf") if name in frame.columns)
    frame.loc[len(frame), column] = warehouse.url("nowhere")
    frame.loc[len(frame), column] = "no address"
    frame.to_csv(path, index=False)
    done = framefetch("mirror", path, tmp_path / "c")
    assert done.returncode == 1
    assert "1 failed, 1 invalid" in done.stderr
    assert f"row 8, {warehouse.url('nowhere')}: expected status 200, got 404" in done.stderr
    assert "framefetch:   row 9, column 'wkf': " in done.stderr
    assert "'no address'" in done.stderr


def test_a_body_that_is_not_what_its_name_promises_is_taken_where_that_is_said(table, tmp_path) -> None:
    warehouse, path, _ = table
    page = b"<!DOCTYPE html><html><head><title>Please log in</title></head></html>"
    warehouse.script("100", Reply(200, page))
    refused = framefetch("mirror", path, tmp_path / "c", "--limit", "1")
    assert refused.returncode == 1
    assert "turn the content check off: --no-content-check, or TransferOptions(check_content=False)" in refused.stderr
    done = framefetch("mirror", path, tmp_path / "c", "--limit", "1", "--no-content-check")
    assert done.returncode == 0
    assert (tmp_path / "c" / "v0" / "100.nwb").read_bytes() == page


def test_a_dry_run_of_what_does_not_fit_ends_as_the_real_run_would(table, tmp_path) -> None:
    warehouse, path, _ = table
    frame = pd.read_csv(path)
    frame["size"] = 2**60
    frame.to_csv(path, index=False)
    dry = framefetch("mirror", path, tmp_path / "c", "--dry-run", "--json", "--report", tmp_path / "r.csv")
    real = framefetch("mirror", path, tmp_path / "c")
    assert (dry.returncode, real.returncode) == (3, 3)
    assert json.loads(dry.stdout)["bytes"] == 8 * 2**60
    assert len(pd.read_csv(tmp_path / "r.csv")) == 8
    refusal = f"expected room for {8 * 2**60:,} bytes in {tmp_path / 'c'}, "
    assert refusal in dry.stderr.splitlines()[-1]
    assert refusal in real.stderr
    assert "8 rows to fetch" in framefetch("mirror", path, tmp_path / "c", "--dry-run").stdout
    assert warehouse.count() == 0


def test_a_dry_run_counts_only_what_is_not_on_the_disk(stocked, tmp_path, disk) -> None:
    """Neither a second place for a file nor content that is held under another version has to be fetched."""
    warehouse, *_ = stocked
    body = hdf5_file(1_500_000)
    url = warehouse.add("/large.nwb", body)
    cache = disk("size=4m") / "c"
    table = pd.DataFrame({"url": [url, url], "size": len(body), "md5": hashlib.md5(body).hexdigest(), "to": ["a", "b"]})
    table.to_csv(tmp_path / "t.csv", index=False)
    words = ["mirror", tmp_path / "t.csv", cache, "--path-template", "{to}.nwb"]
    assert framefetch(*words, "--dry-run").returncode == 0, "two copies would be too many"
    assert framefetch(*words, "--limit", "1").returncode == 0
    (cache / "filler").write_bytes(b"x" * 1_700_000)
    assert framefetch(*words[:3], "--version", "v1", "--dry-run").returncode == 0
    table.drop(columns="md5").to_csv(tmp_path / "t.csv", index=False)
    refused = framefetch(*words[:3], "--version", "v1", "--dry-run")
    assert refused.returncode == 3
    assert "expected room for 1,500,000 bytes" in refused.stderr


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a cache", "a cache that holds all"])
def test_a_dry_run_of_what_cannot_be_written_ends_as_the_real_run_does(table, tmp_path, disk, before) -> None:
    warehouse, path, _ = table
    cache = disk("size=4m") / "c"
    if before != "nothing":
        cache.mkdir()
    if before.startswith("a cache"):
        limit = ["--limit", "3"] if before == "a cache" else []
        assert framefetch("mirror", path, cache, *limit).returncode == 0
    asked = warehouse.count()
    disk("ro")
    runs = [framefetch("mirror", path, cache, *words) for words in ([], ["--dry-run"])]
    assert [run.returncode for run in runs] == [0 if before.endswith("all") else 3] * 2, runs[1].stderr
    said = [[line for line in run.stderr.splitlines() if "(EROFS)" in line] for run in runs]
    assert said[0] == said[1]
    assert len(said[1]) == (0 if before.endswith("all") else 1)
    assert warehouse.count() == asked


def test_a_dry_run_below_a_file_ends_as_the_real_run_does(table, tmp_path) -> None:
    warehouse, path, _ = table
    dry = framefetch("mirror", path, path / "c", "--dry-run")
    real = framefetch("mirror", path, path / "c")
    message = (
        f"framefetch: a file stands at {path}, where a folder of the cache belongs; move it away, or choose another"
    )
    assert [(run.returncode, run.stderr.splitlines()[-1]) for run in (dry, real)] == [
        (3, f"{message} folder for the cache")
    ] * 2
    assert warehouse.count() == 0


def test_a_dry_run_knows_a_release_that_takes_nothing(table, tmp_path) -> None:
    """But a file in the place of a folder fails its own rows."""
    _, path, _ = table
    cache = tmp_path / "c"
    (cache / "v0").mkdir(parents=True)
    needed(shutil.which("chattr") is not None, "e2fsprogs")
    if subprocess.run(["chattr", "+i", cache / "v0"], capture_output=True).returncode:
        pytest.skip("needs the right to make a folder immutable")
    try:
        dry = framefetch("mirror", path, cache, "--dry-run")
    finally:
        subprocess.run(["chattr", "-i", cache / "v0"], check=True)
    assert dry.returncode == 3
    assert f"writing to the cache {cache}: Permission denied (EACCES)" in dry.stderr
    (cache / "v0" / "file 1").write_text("mine")
    words = ["--path-template", "{name}/x.nwb", "--dry-run"]
    assert "(E" not in framefetch("mirror", path, cache, *words).stderr


PLAIN_C = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_name_that_the_locale_cannot_have_is_an_invalid_row_and_the_others_go_on(warehouse, tmp_path) -> None:
    names = [f"{at}.nwb" for at in range(50)] + ["日本1.nwb", "%E6%97%A5%E6%9C%AC2.nwb"]
    urls = [warehouse.add(name, hdf5_file(3000, seed=at)) for at, name in enumerate(names[:50])]
    urls += [f"{warehouse.base_url}/any/{name}" for name in names[50:]]
    pd.DataFrame({"url": urls}).to_csv(tmp_path / "t.csv", index=False)
    words = ("mirror", "t.csv", "cache", "--json", "--report", "r.csv")
    done = framefetch(*words, cwd=tmp_path, env=PLAIN_C)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    figures = json.loads(done.stdout)
    assert (figures["downloaded"], figures["invalid"], figures["requests"]) == (50, 2, 50)
    report = pd.read_csv(tmp_path / "r.csv")
    assert report["status"].tolist() == ["downloaded"] * 50 + ["invalid"] * 2
    assert report["error"][50:].str.contains("the locale 'C'.*PYTHONUTF8=1").all()
    assert len(list((tmp_path / "cache" / "v0").iterdir())) == 50


def test_files_whose_names_the_locale_cannot_have_are_findings(warehouse, tmp_path) -> None:
    url = warehouse.add("%E6%97%A5.nwb", hdf5_file(3000))
    pd.DataFrame({"url": [url]}).to_csv(tmp_path / "t.csv", index=False)
    utf8 = {**os.environ, "PYTHONUTF8": "1"}
    assert framefetch("mirror", "t.csv", "cache", cwd=tmp_path, env=utf8).returncode == 0
    done = framefetch("verify", "cache", cwd=tmp_path, env=PLAIN_C)
    assert done.returncode == 1
    assert "cannot be looked at: its name is not in ascii, the locale's; run with PYTHONUTF8=1" in done.stdout
    assert framefetch("verify", "cache", cwd=tmp_path, env=utf8).returncode == 0


def test_what_nobody_foresaw_is_one_line_and_what_was_done_is_told(table, tmp_path) -> None:
    """The fault is planted: there is none to be had."""
    _, path, _ = table
    program = (
        "from framefetch.engine import local; from framefetch.ui.cli import main; told = []\n"
        "def planted(self, *_, seen=[]):\n"
        "    seen.append(1)\n"
        "    if len(seen) == 3: raise ZeroDivisionError('planted\\nfault')\n"
        "    return original(self, *_)\n"
        "original = local._Run._tell; local._Run._tell = planted; main()"
    )
    words = ["mirror", str(path), str(tmp_path / "c"), "--json", "--report", str(tmp_path / "r.csv"), "--quiet"]

    def run(*, dev: bool = False, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *(["-X", "dev", "-W", "ignore"] if dev else []), "-c", program, *words],
            capture_output=True, text=True, timeout=50, env={**os.environ, **settings},
        )  # fmt: skip

    done = run()
    assert done.returncode == 3
    assert re.fullmatch(
        r"framefetch: unforeseen ZeroDivisionError at <string>:4: planted fault; please report this, "
        r"with what it says when FRAMEFETCH_TRACEBACK=1 is set\n",
        done.stderr,
    ), done.stderr
    figures = json.loads(done.stdout)
    assert figures["rows"] == 8
    assert figures["downloaded"] + figures["cancelled"] == 8
    report = pd.read_csv(tmp_path / "r.csv")
    held = [Path(place) for place in report["path"].dropna()]
    assert len(held) == figures["downloaded"] == len(list((tmp_path / "c" / "v0").glob("*")))
    for asked in (run(FRAMEFETCH_TRACEBACK="1"), run(dev=True)):
        assert asked.returncode == 3
        assert "Traceback (most recent call last)" in asked.stderr
        assert asked.stderr.endswith("please report this\n")
