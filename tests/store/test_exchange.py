"""The prototype's manifest.json, out and in."""

import io
import json
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from framefetch.errors import DiskFull, ManifestError, NotAManifest, PlanError, StorageError
from framefetch.models import Verified
from framefetch.store import exchange
from framefetch.store.exchange import export_manifest, import_manifest, print_manifest, read_layout
from framefetch.table.naming import check_version
from tests.store.builders import RECEIPT, digest, hold, parts, request, row, tree

BODY = b"the bytes of a file"
OLDER = '{"v0": {}}'
HOSTS = {"testwarehouse:9000": "localhost:8080"}


def md5(content: bytes = BODY) -> str:
    return digest(content).hex


def names_in(version: str) -> Callable[[str], str]:
    folder = check_version(version)
    return lambda url: f"{folder}/{url.rpartition('/')[2]}.nwb"


@pytest.fixture
def take(folder, tmp_path):
    """Give a function that imports a layout, written to a file beside the cache."""

    def run(layout: object, source=None, hosts=HOSTS):
        source = source or tmp_path / "older.json"
        source.write_text(layout if isinstance(layout, str) else json.dumps(layout))
        return import_manifest(folder.files, folder.manifest, str(source), hosts, names_in)

    return run


def stated(path: object, checksum: str = "", url: str = "http://localhost:8080/api/1") -> dict[str, object]:
    return {"v0": {url: {"file_path": str(path), "md5_checksum": checksum or md5()}}}


def held(folder) -> list[tuple[str, str, str]]:
    return [(entry.version, entry.key, entry.path) for entry in folder.manifest.entries()]


# -- out -----------------------------------------------------------------------------------------------------------


def test_an_export_has_the_prototypes_layout(folder, tmp_path) -> None:
    hold(folder, request("v0/1.nwb", key="http://host/1"), BODY)
    hold(folder, request("v0/x/2.nwb", key="http://host/ü?a=1&b"), b"2")
    hold(folder, request("v1/1.nwb", key="http://host/1"), b"3")
    assert export_manifest(folder.manifest, str(tmp_path / "out.json")) == 3
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == {
        "v0": {
            "http://host/1": {"file_path": "v0/1.nwb", "md5_checksum": md5()},
            "http://host/ü?a=1&b": {"file_path": "v0/x/2.nwb", "md5_checksum": md5(b"2")},
        },
        "v1": {"http://host/1": {"file_path": "v1/1.nwb", "md5_checksum": md5(b"3")}},
    }


def test_an_export_of_nothing(folder, tmp_path) -> None:
    assert export_manifest(folder.manifest, str(tmp_path / "out.json")) == 0
    assert (tmp_path / "out.json").read_text() == "{}\n"


def test_of_two_places_of_one_url_the_newest_is_exported_and_counted(folder, tmp_path) -> None:
    folder.manifest.commit([row(1, path="v0/z", fetched_at=1.0), row(1, path="v0/a", fetched_at=2.0)])
    folder.manifest.flush()
    assert export_manifest(folder.manifest, str(tmp_path / "out.json")) == 1
    assert json.loads((tmp_path / "out.json").read_text())["v0"]["http://host/1"]["file_path"] == "v0/a"


def test_an_export_is_laid_out_as_the_prototype_did(folder, tmp_path) -> None:
    sha256 = replace(RECEIPT, digests=(digest(BODY, "sha256"),))
    folder.manifest.commit([
        row(1, path='v0/"ü"\\\n', key="http://host/ü?a=\t1"),
        row(2, receipt=sha256),
        row(3, path="v0/z"),
        row(3, path="v0/a"),
        row(1, version="v/ \u2028", path="v1/1.nwb"),
    ])  # fmt: skip
    folder.manifest.flush()
    assert export_manifest(folder.manifest, str(tmp_path / "out.json")) == 4
    layout = {
        "v/ \u2028": {"http://host/1": {"file_path": "v1/1.nwb", "md5_checksum": "0" * 32}},
        "v0": {
            "http://host/2": {"file_path": "v0/2.nwb", "md5_checksum": None},
            "http://host/3": {"file_path": "v0/z", "md5_checksum": "0" * 32},
            "http://host/ü?a=\t1": {"file_path": 'v0/"ü"\\\n', "md5_checksum": "0" * 32},
        },
    }
    expected = json.dumps(layout, indent=1, ensure_ascii=False) + "\n"
    assert (tmp_path / "out.json").read_text(encoding="utf-8") == expected
    printed = io.StringIO()
    assert print_manifest(folder.manifest, printed) == 4
    assert printed.getvalue() == expected


def test_an_export_needs_no_memory_for_each_row(folder, tmp_path) -> None:
    peaks = []
    for start in (0, 8_000):
        folder.manifest.commit([row(number) for number in range(start, start + 8_000)])
        folder.manifest.flush()
        tracemalloc.start()
        assert export_manifest(folder.manifest, str(tmp_path / "out.json")) == start + 8_000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 8_000 < 100


def test_an_export_replaces_the_older_one_in_one_step(folder, tmp_path, monkeypatch) -> None:
    target = tmp_path / "out.json"
    target.write_text(OLDER)
    seen = []
    real = os.replace

    def look(part: str, final: str) -> None:
        seen.append((Path(part).read_text(), target.read_text()))
        real(part, final)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", look)
        export_manifest(folder.manifest, str(target))
    assert seen == [("{}\n", OLDER)]
    assert target.read_text() == "{}\n"
    assert sorted(os.listdir(tmp_path)) == ["cache", "out.json"]


@pytest.mark.parametrize(
    ("there", "replaced"),
    [
        ("", True),
        ("{}", True),
        ('{"v0": {}}\n', True),
        (json.dumps(stated("x.nwb", "0", 'http://h/"{}')), True),
        (json.dumps({"v0": {"http://h/1": {"retrieved": 1, "md5_checksum": "0"}}}, indent=4), True),
        ("url,md5\nhttp://h/1,0\n", False),
        ("\x89HDF", False),
        (" ", False),
        ("[]", False),
        ('{"v0": 1}', False),
        ('{"name": {"first": {"file": "md5_checksum"}}}', False),
        ('{"name": {}, "notes": "all my work"}', False),
    ],
)
def test_an_export_replaces_nothing_but_a_manifest(folder, tmp_path, there, replaced) -> None:
    target = tmp_path / "table.csv"
    target.write_text(there, encoding="latin-1")
    if replaced:
        assert export_manifest(folder.manifest, str(target)) == 0
        assert json.loads(target.read_text()) == {}
        return
    with pytest.raises(PlanError, match=r"table\.csv: expected no file yet, or an older manifest .* remove it first"):
        export_manifest(folder.manifest, str(target))
    assert target.read_text(encoding="latin-1") == there


def test_an_export_that_fails_leaves_the_older_one(folder, tmp_path, monkeypatch) -> None:
    target = tmp_path / "out.json"
    target.write_text(OLDER)

    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(DiskFull, match=r"writing .*out\.json: No space left"):
            export_manifest(folder.manifest, str(target))
    (tmp_path / "place").mkdir()
    for impossible in (tmp_path / "place", tmp_path / "none" / "out.json"):
        with pytest.raises(StorageError, match="writing"):
            export_manifest(folder.manifest, str(impossible))
    assert target.read_text() == OLDER
    assert sorted(os.listdir(tmp_path)) == ["cache", "out.json", "place"]


def test_what_is_exported_can_be_imported(folder, tmp_path, open_folder) -> None:
    hold(folder, request("v0/1.nwb", key="http://host/1"), BODY)
    export_manifest(folder.manifest, f"{folder.root}/manifest.json")
    before = held(folder)
    folder.close()
    for name in os.listdir(folder.root):
        if name.startswith("manifest.sqlite"):
            os.unlink(f"{folder.root}/{name}")
    again = open_folder()
    assert again.older == f"{again.root}/manifest.json"
    report = import_manifest(again.files, again.manifest, f"{again.root}/manifest.json", {}, names_in)
    assert (report.imported, report.skipped) == (1, [])
    assert held(again) == before


# -- in ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def inside(folder):
    path = f"{folder.root}/v0/old name.nwb"
    os.mkdir(f"{folder.root}/v0")
    with open(path, "wb") as file:
        file.write(BODY)
    return path


@pytest.mark.parametrize("how", ["absolute", "cache", "manifest", "working"])
def test_a_file_below_the_cache_stays_where_it_is(folder, take, inside, tmp_path, monkeypatch, how) -> None:
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    path = {
        "absolute": inside,
        "cache": "v0/old name.nwb",
        "manifest": "cache/v0/old name.nwb",
        "working": "../cache/v0/old name.nwb",
    }[how]
    source = tmp_path / "work" / "deep" / "m.json" if how == "working" else None
    report = take(stated(path, md5().upper() + " "), source)
    assert (report.imported, report.skipped) == (1, [])
    assert held(folder) == [("v0", "http://testwarehouse:9000/api/1", "v0/old name.nwb")]
    (entry,) = folder.manifest.entries()
    assert entry.receipt.verified is Verified.DIGEST
    assert entry.receipt.mtime_ns == os.stat(inside).st_mtime_ns
    assert parts(folder) == []


def test_secrets_of_a_url_are_not_recorded(folder, take, inside) -> None:
    take(stated(inside, url="http://me:pw@localhost:8080/api/1?token=canary"))
    assert held(folder) == [("v0", "http://testwarehouse:9000/api/1?token=***", "v0/old name.nwb")]
    report = take(stated(inside, md5(b"other"), url="http://me:pw@localhost:8080/api/2?token=canary"))
    assert [url for url, _ in report.skipped] == ["http://localhost:8080/api/2?token=***"]


def test_a_file_outside_is_copied_and_the_original_left_alone(folder, take, tmp_path) -> None:
    outside = tmp_path / "elsewhere" / "1085755199"
    outside.parent.mkdir()
    outside.write_bytes(BODY)
    before = outside.stat()
    for _ in range(2):  # a second time changes nothing
        report = take(stated(outside))
        assert (report.imported, report.skipped) == (1, [])
        assert held(folder) == [("v0", "http://testwarehouse:9000/api/1", "v0/1.nwb")]
        assert tree(tmp_path / "cache" / "v0") == {"1.nwb": BODY}
    after = outside.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)
    assert parts(folder) == []


def test_a_link_below_the_cache_becomes_a_file_and_is_kept_beside_it(folder, take, tmp_path) -> None:
    (tmp_path / "outside").write_bytes(BODY)
    (tmp_path / "cache" / "v0").mkdir()
    (tmp_path / "cache" / "v0" / "1.nwb").symlink_to(tmp_path / "outside")
    assert take(stated("v0/1.nwb")).imported == 1
    assert tree(tmp_path / "cache" / "v0") == {"1.nwb": BODY, "1.nwb.kept-1": str(tmp_path / "outside")}
    assert not (tmp_path / "cache" / "v0" / "1.nwb").is_symlink()
    assert (tmp_path / "outside").read_bytes() == BODY


@pytest.mark.parametrize("was_imported", [True, False])
def test_a_file_behind_a_link_is_not_taken_over(folder, take, tmp_path, was_imported) -> None:
    (tmp_path / "outside").write_bytes(BODY)
    if was_imported:
        assert take(stated(tmp_path / "outside")).imported == 1
    else:
        (tmp_path / "cache" / "v0").mkdir()
        (tmp_path / "cache" / "v0" / "1.nwb").write_bytes(BODY)
    before = held(folder)
    (tmp_path / "cache" / "v0").rename(tmp_path / "moved")
    (tmp_path / "cache" / "v0").symlink_to(tmp_path / "moved")
    for path in (tmp_path / "outside", "v0/1.nwb"):
        report = take(stated(path))
        assert report.imported == 0
        assert ["a link stands at v0, " in reason for _, reason in report.skipped] == [True]
    assert held(folder) == before
    assert tree(tmp_path / "moved") == {"1.nwb": BODY}
    assert parts(folder) == []


def test_of_several_files_of_one_name_the_right_one_is_taken(folder, take, inside, tmp_path, monkeypatch) -> None:
    right = tmp_path / "work" / "v0" / "old name.nwb"
    right.parent.mkdir(parents=True)
    right.write_bytes(b"the right one")
    monkeypatch.chdir(tmp_path / "work")
    assert take(stated("v0/old name.nwb", md5(b"the right one"))).imported == 1
    assert tree(tmp_path / "cache" / "v0") == {"1.nwb": b"the right one", "old name.nwb": BODY}


def test_two_files_of_one_name_do_not_replace_each_other(folder, take, tmp_path) -> None:
    layout: dict[str, dict[str, object]] = {"v0": {}}
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
        layout["v0"] |= stated(tmp_path / name, md5(name.encode()), f"http://{name}/1")["v0"]
    for _ in range(2):
        report = take(layout)
        assert report.imported == 1
        assert [url for url, reason in report.skipped if "held for another URL, http://a/1" in reason] == ["http://b/1"]
        assert tree(tmp_path / "cache" / "v0") == {"1.nwb": b"a"}


def test_a_foreign_file_where_a_copy_belongs_is_set_aside(folder, take, tmp_path) -> None:
    (tmp_path / "outside").write_bytes(BODY)
    (tmp_path / "cache" / "v0").mkdir()
    (tmp_path / "cache" / "v0" / "1.nwb").write_bytes(b"mine")
    assert take(stated(tmp_path / "outside")).imported == 1
    assert tree(tmp_path / "cache" / "v0") == {"1.nwb": BODY, "1.nwb.kept-1": b"mine"}


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_copy_that_was_edited_is_replaced_and_what_came_since_is_not(
    folder, take, tmp_path, monkeypatch, meanwhile
) -> None:
    (tmp_path / "outside").write_bytes(BODY)
    take(stated(tmp_path / "outside"))
    copy = tmp_path / "cache" / "v0" / "1.nwb"
    copy.write_bytes(b"edited")
    read = folder.files.hash

    def hash_and_lose(*arguments: object) -> object:
        found = read(*arguments)
        copy.unlink()
        copy.write_bytes(b"my own work")
        return found

    if meanwhile:
        monkeypatch.setattr(folder.files, "hash", hash_and_lose)
    assert take(stated(tmp_path / "outside")).imported == 1
    kept = {"1.nwb.kept-1": b"my own work"} if meanwhile else {}
    assert tree(tmp_path / "cache" / "v0") == {"1.nwb": BODY} | kept


@pytest.mark.parametrize("version", ["\ud800", "", "a/b", ".v0", "manifest"])
@pytest.mark.parametrize("outside", [False, True])
def test_what_can_be_no_version_is_skipped_with_a_reason(folder, take, inside, tmp_path, version, outside) -> None:
    (tmp_path / "outside").write_bytes(BODY)
    right = stated(inside, url="http://h/1")
    report = take(right | {version: stated(tmp_path / "outside" if outside else inside, url="http://h/2")["v0"]})
    assert report.imported == 1
    ((url, reason),) = report.skipped
    assert url == "http://h/2"
    assert reason == f"expected a version that can name a folder, such as 'v0', got {version!r}"
    assert held(folder) == [("v0", "http://h/1", "v0/old name.nwb")]


#: Entries that do not say what they should, and what is said of them.
LACKING = {"no-md5": "no md5_checksum", "no-path": "no file_path", "null": "NoneType"}


def test_what_is_wrong_is_skipped_with_a_reason_and_the_rest_is_imported(folder, take, inside, tmp_path) -> None:
    (tmp_path / "outside").write_bytes(b"other bytes")
    layout = {
        "v0": {
            "http://h/wrong": {"file_path": inside, "md5_checksum": md5(b"other")},
            "http://h/gone": {"file_path": "v0/gone.nwb", "md5_checksum": md5()},
            "http://h/folder": {"file_path": "v0", "md5_checksum": md5()},
            "http://h/none": {"file_path": inside, "md5_checksum": None},
            "http://h/outside": {"file_path": str(tmp_path / "outside"), "md5_checksum": md5()},
            "http://h/good": {"file_path": inside, "md5_checksum": md5()},
            "http://h/no-md5": {"file_path": inside},
            "http://h/no-path": {"md5_checksum": md5()},
            "http://h/null": None,
        }
    }
    report = take(layout)
    assert report.imported == 1
    reasons = dict(report.skipped)
    assert list(reasons) == [f"http://h/{name}" for name in ("wrong", "gone", "folder", "none", "outside", *LACKING)]
    assert reasons["http://h/wrong"] == f"expected md5:{md5(b'other')}, but {inside} has md5:{md5()}"
    assert reasons["http://h/gone"].startswith("no file at ")
    assert reasons["http://h/gone"].endswith(
        "; a relative file_path is looked for in the cache, beside the manifest and in the working folder"
    )
    assert "32 lower-case hex digits, got 'none'" in reasons["http://h/none"]
    for name, got in LACKING.items():
        assert reasons[f"http://h/{name}"] == f"expected a file_path and an md5_checksum, got {got}"
    assert held(folder) == [("v0", "http://h/good", "v0/old name.nwb")]
    assert (tmp_path / "outside").read_bytes() == b"other bytes"
    assert tree(tmp_path / "cache" / "v0") == {"old name.nwb": BODY}


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "{",
        "[1]",
        "3",
        '{"v0": [1]}',
        '{"v0": {"u": 1}}',
        '{"v0": {"u": {"file_path": "x"}}}',
        "\x00",
        "[" * 100_000,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_manifest_is_refused_whole(folder, take, broken) -> None:
    with pytest.raises(ManifestError, match=r"is no manifest of the prototype: expected \{"):
        take(broken)
    assert held(folder) == []


def test_an_import_that_is_stopped_at_its_last_file_has_not_ended(folder, tmp_path) -> None:
    path = Path(folder.root) / "v0/1"
    path.parent.mkdir()
    path.write_bytes(BODY)
    source = tmp_path / "older.json"
    source.write_text(json.dumps(stated(path, md5())))
    asked = []

    def stopped() -> bool:
        asked.append(None)
        return len(asked) > 1

    report = import_manifest(folder.files, folder.manifest, str(source), {}, names_in, stopped)
    assert (report.imported, report.ended) == (0, False)


@pytest.mark.parametrize(
    "path",
    [".framefetch/locks/x", "v0/../.framefetch/locks/x", "manifest.sqlite", "manifest.sqlite-wal", "manifest.json"],
)
def test_what_the_cache_keeps_for_itself_is_no_file_of_the_users(folder, take, monkeypatch, path) -> None:
    """Taken for one, prune would remove the locks of live processes; to close the database ends all locks on it."""
    root = Path(folder.root)
    for own in (".framefetch/locks/x", "manifest.json"):
        (root / own).write_bytes(b"")
    (root / "v0").mkdir(exist_ok=True)
    hashed = []
    monkeypatch.setattr("framefetch.store.exchange.hash_file", lambda *arguments: hashed.append(arguments))
    for told in (path, str(root / path)):
        report = take(stated(told, md5(b"")))
        assert [reason for _, reason in report.skipped] == [f"{told} is a file of the cache's own"]
    assert (held(folder), hashed) == ([], [])


def test_an_import_that_is_stopped_is_gone_on_with(folder, tmp_path, monkeypatch) -> None:
    """What was imported is not read again."""
    layout = {}
    for at in range(6):
        path = Path(folder.root) / f"v0/{at}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(BODY + b"%d" % at)
        layout[f"http://host/{at}"] = {"file_path": str(path), "md5_checksum": md5(BODY + b"%d" % at)}
    source = tmp_path / "older.json"
    source.write_text(json.dumps({"v0": layout}))
    read = []
    real = exchange.hash_file

    def hash_file(path, *rest):
        read.append(path)
        return real(path, *rest)

    monkeypatch.setattr(exchange, "hash_file", hash_file)

    def stopped() -> bool:
        return len(read) == 3

    report = import_manifest(folder.files, folder.manifest, str(source), {}, names_in, stopped)
    assert (report.imported, report.skipped, report.ended) == (2, [], False), "the third was being read"
    report = import_manifest(folder.files, folder.manifest, str(source), {}, names_in)
    assert (report.imported, report.skipped, report.ended) == (6, [], True)
    assert [path[-1] for path in read] == list("0122345")
    assert len(held(folder)) == 6


def test_what_was_copied_before_an_interrupt_has_its_rows(folder, tmp_path, monkeypatch) -> None:
    layout = {}
    for at in range(6):
        (tmp_path / f"{at}").write_bytes(BODY + b"%d" % at)
        layout[f"http://host/{at}"] = {"file_path": str(tmp_path / f"{at}"), "md5_checksum": md5(BODY + b"%d" % at)}
    source = tmp_path / "older.json"
    source.write_text(json.dumps({"v0": layout}))
    real, read = exchange.hash_file, []

    def hash_file(path, *rest):
        read.append(path)
        if len(read) == 4:
            raise KeyboardInterrupt
        return real(path, *rest)

    monkeypatch.setattr(exchange, "hash_file", hash_file)
    with pytest.raises(KeyboardInterrupt):
        import_manifest(folder.files, folder.manifest, str(source), {}, names_in)
    folder.manifest.flush()
    assert [path for *_, path in held(folder)] == [f"v0/{at}.nwb" for at in range(3)]
    assert sorted(os.listdir(f"{folder.root}/v0")) == [f"{at}.nwb" for at in range(3)]


def test_bytes_that_are_no_text_and_a_file_that_is_not_there(folder, tmp_path) -> None:
    (tmp_path / "latin").write_bytes(b'{"v0": {"caf\xe9": 1}}')
    for source, message in (
        ("latin", "is no manifest of the prototype"),
        ("none", "No such file"),
        ("cache", "Is a d"),
    ):
        with pytest.raises(ManifestError, match=message):
            import_manifest(folder.files, folder.manifest, str(tmp_path / source), {}, names_in)


def test_a_full_disk_ends_an_import(disk, open_folder, tmp_path) -> None:
    folder = open_folder(disk("size=600k"))
    (tmp_path / "large").write_bytes(b"x" * 900_000)
    (tmp_path / "m.json").write_text(json.dumps(stated(tmp_path / "large", md5(b"x" * 900_000))))
    with pytest.raises(DiskFull):
        import_manifest(folder.files, folder.manifest, str(tmp_path / "m.json"), {}, names_in)
    assert parts(folder) == []


def test_hundreds_of_files_are_imported(folder, take, tmp_path) -> None:
    (tmp_path / "cache" / "v0").mkdir()
    layout: dict[str, dict[str, object]] = {"v0": {}}
    for number in range(600):
        (tmp_path / "cache" / "v0" / str(number)).write_bytes(b"%d" % number)
        layout["v0"] |= stated(f"v0/{number}", md5(b"%d" % number), f"http://h/{number}")["v0"]
    assert take(layout).imported == 600
    assert len(held(folder)) == 600


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("[]", "got list"),
        ("7", "got int"),
        ("{", "got no JSON: Expecting property name"),
        ('{"v0": ["a"]}', "got list as 'v0'"),
        ('{"v0": {"http://h/1?token=c4n4ry": "path"}}', "got str for http://h/1?token=***"),
        ('{"v0": {"http://h/1": {"file_path": "a"}}}', "got no md5_checksum for http://h/1"),
        ('{"v0": {"http://h/1": {"md5_checksum": "a"}}}', "got no file_path for http://h/1"),
    ],
)
def test_what_is_no_manifest_is_told_by_what_came(tmp_path: Path, text: str, got: str) -> None:
    source = tmp_path / "m.json"
    source.write_text(text)
    with pytest.raises(NotAManifest) as refused:
        read_layout(str(source))
    assert str(refused.value).startswith(f"{source} is no manifest of the prototype: expected ")
    assert f"; {got}" in str(refused.value)
