"""Nothing outside the root: hostile names and planted links change nothing around a cache, and no two rows one file."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framefetch import FramefetchError, MetadataCache, TableOptions, TransferOptions
from framefetch.warehouse import Reply, WarehouseThread
from tests.conftest import EAGER

OPTIONS = replace(EAGER, transfer=TransferOptions(check_content=False), lock_timeout=1.0)
PIECES = [
    *(
        "..",
        ".",
        "/",
        "\\",
        "//",
        "a",
        "b",
        "A",
        "ä",
        "a\u0308",
        "%2e%2e",
        "%2F",
        "%00",
        "\0",
        "\n",
        " ",
        "~",
        "-",
        ":",
    ),
    *("v0", "v1", ".framefetch", "parts", "locks", "manifest.sqlite", "manifest.json", "manifest.sqlite-wal", "files"),
    *(
        "CON",
        "nul.txt",
        "a.",
        "a ",
        ".nwb",
        "x" * 200,
        "ß" * 130,
        "\ud800",
        "\u202e",
        "/etc",
        "C:\\",
        "\\\\host\\share",
    ),
]
NAMES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join) | st.text(max_size=12)
#: Where somebody has put a link before, or meanwhile; all of them lead out of the cache.
PLANTED = st.lists(
    st.sampled_from(
        [
            *("v0", "v0/a", "v0/b", "v0/A", "v0/a/b", "v0/a.nwb", ".framefetch", ".framefetch/parts"),
            *(
                ".framefetch/locks",
                ".framefetch/locks/files",
                "manifest.sqlite",
                "manifest.json",
                "manifest.sqlite-wal",
            ),
        ]
    ),
    max_size=3,
    unique=True,
)


@pytest.fixture(scope="module")
def server() -> Iterator[WarehouseThread]:
    with WarehouseThread() as running:
        running.script_all(lambda record: Reply(200, f"the body of row {record.target.rpartition('=')[2]}".encode()))
        yield running


def seen(folder: Path) -> dict[str, tuple[int, int, bytes | str]]:
    """Return all that is below a folder: mode, time of change, and content."""
    found: dict[str, tuple[int, int, bytes | str]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


def is_no_folder(path: Path) -> bool:
    """Return whether something else stands at a path: a link, or a file that was fetched."""
    return os.path.lexists(path) and (path.is_symlink() or not path.is_dir())


def plant(cache: Path, outside: Path, links: list[str]) -> None:
    """Put links into a cache, to folders or to files outside."""
    for at, link in enumerate(links):
        place = cache / link
        if not os.path.lexists(place) and not any(map(is_no_folder, place.parents)):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(outside / ("folder" if at % 2 else "file"))


@pytest.mark.timeout(1800)  # the long form
@pytest.mark.filterwarnings("ignore:the manifest was damaged", "ignore:not taken over")
@pytest.mark.parametrize("how", ["path template", "default names"])
def test_hostile_names_and_planted_links(
    how: str, full: bool, server: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    tried = held = 0

    @settings(max_examples=2500 if full else 40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(names=st.lists(NAMES, min_size=1, max_size=20), before=PLANTED, between=PLANTED)
    def attack(names: list[str], before: list[str], between: list[str]) -> None:
        nonlocal tried, held
        tried += len(names)
        around = tmp_path / "around"
        shutil.rmtree(around, ignore_errors=True)
        outside, cache = around / "outside", around / "nested" / "cache"
        (outside / "folder" / "a").mkdir(parents=True)
        (outside / "file").write_bytes(b"precious")
        (outside / "folder" / "a.nwb").write_bytes(b"precious")
        (around / "nested" / "precious.nwb").parent.mkdir()
        (around / "nested" / "precious.nwb").write_bytes(b"precious")
        untouched = seen(outside)
        plant(cache, outside, before)
        if how == "path template":
            urls = [server.url(f"/any?row={at}") for at in range(len(names))]
            options = TableOptions(path_template="{name}")
        else:
            quoted = [quote(name, safe="", errors="replace") for name in names]
            urls = [f"{server.url('/')}{name}?row={at}" for at, name in enumerate(quoted)]
            options = TableOptions()
        frame = pd.DataFrame({"url": urls, "name": pd.Series(names, dtype=object)})
        for links in (between, []):
            held += with_what_is_held(frame, cache, options)
            plant(cache, outside, links)
        assert seen(outside) == untouched
        assert [path.name for path in (around / "nested").iterdir() if path.name != "cache"] == ["precious.nwb"]
        assert sorted(path.name for path in around.iterdir()) == ["nested", "outside"]

    attack()
    assert held > 0
    note("84", f"{tried:,} names, {held:,} held, and links in the way: {how}", "nothing outside", server.count())
    server.clear_log()


def with_what_is_held(frame: pd.DataFrame, cache: Path, options: TableOptions) -> int:
    """Mirror a table, and assert that no row has another row's bytes; return how many rows have theirs.

    A cache may also refuse as a whole.
    """
    try:
        with MetadataCache(frame, cache, table=options, options=OPTIONS) as opened:
            result = opened.mirror(frame).frame
    except FramefetchError:
        return 0
    done = result[result["status"].isin(["downloaded", "cached"])]
    for at, path in zip(done.index, done["path"], strict=True):
        assert Path(os.path.realpath(path)).is_relative_to(os.path.realpath(cache))
        assert Path(path).read_bytes() == f"the body of row {at}".encode()
    assert set(result["status"]) <= {"downloaded", "cached", "failed", "invalid"}
    return len(done)
