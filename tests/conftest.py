"""What tests of all rooms share: the places of real data and tools, a warehouse, a cache."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from framefetch import MetadataCache, Options, RetryPolicy, Timeouts
from framefetch.native import plain
from framefetch.sources import loan
from framefetch.store import digests, files, places
from framefetch.warehouse import WarehouseThread, hdf5_file
from tests.faults.disk.bench import Bench
from tests.nginx import Nginx

REPOSITORY = Path(__file__).parents[1]
#: No waiting between attempts, short silences: what a test asserts is what was asked, not how long it took. A silence
#: is so long that a machine that pauses for half a second makes none.
EAGER = Options(retry=RetryPolicy(base=0.0, cap=0.0), timeouts=Timeouts(connect=2.0, stall=1.0, speed_window=0.5))


def pytest_configure() -> None:
    """Let what tests start hear signals that they send, also where all this runs in the background or under nohup."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag for what takes too long for every change."""
    parser.addoption("--full", action="store_true", help="run the long forms: all seeds, all kills")


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Return whether the long form of a test was asked for."""
    return bool(request.config.getoption("--full"))


def needed(found: bool, what: str) -> None:
    """Skip where something is missing on somebody's machine; in CI it must be there."""
    if found:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have {what}")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real tables and NWB files: $FRAMEFETCH_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("FRAMEFETCH_DATA") or REPOSITORY.parent / "shared" / "data")
    needed(folder.is_dir(), "the real tables and NWB files (set FRAMEFETCH_DATA to their folder)")
    return folder


@pytest.fixture(scope="session")
def fixture_data() -> Path:
    """Return the small real files that the repository carries."""
    return Path(__file__).parent / "data"


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything done a call at a time, as where there is no module in C; a test can stand between the calls."""
    for module in (digests, files, loan, places):
        monkeypatch.setattr(module, "at_once", plain)


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    """Give a function that starts a real nginx on a folder."""
    needed(shutil.which("nginx") is not None, "nginx")
    started: list[Nginx] = []

    def start(root: Path, server: str = "", http: str = "") -> Nginx:
        started.append(Nginx(root, tmp_path / f"nginx-{len(started)}", server=server, http=http))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Give a process between a shim and its disk; it runs the command line in forks."""
    needed(shutil.which("gcc") is not None, "gcc, which makes the shim between a process and its disk")
    running = Bench(tmp_path_factory.mktemp("bench"))
    yield running
    running.close()


@pytest.fixture
def warehouse() -> Iterator[WarehouseThread]:
    """Give a running warehouse, empty."""
    with WarehouseThread() as running:
        yield running


@pytest.fixture
def stocked(warehouse: WarehouseThread) -> tuple[WarehouseThread, pd.DataFrame, dict[str, bytes]]:
    """Give a warehouse with eight files, the table that names them, and their bytes by URL."""
    contents = {
        warehouse.add(str(100 + at), hdf5_file(3000 + at, seed=at)): hdf5_file(3000 + at, seed=at) for at in range(8)
    }
    return warehouse, pd.DataFrame({"name": [f"file {at}" for at in range(8)], "wkf": list(contents)}), contents


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[Callable[..., MetadataCache]]:
    """Give a function that opens a cache in a folder of the test, with eager options."""
    opened: list[MetadataCache] = []

    def make(frame: pd.DataFrame, /, folder: str = "cache", **options: object) -> MetadataCache:
        options.setdefault("options", EAGER)
        opened.append(MetadataCache(frame, tmp_path / folder, **options))
        return opened[-1]

    yield make
    for cache in opened:
        cache.close()


def _mount(*arguments: object) -> None:
    try:
        subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Give a function that mounts a real disk of a few kilobytes, or one more time with other options."""
    place = tmp_path / "disk"
    mounted = False

    def make(options: str) -> Path:
        nonlocal mounted
        place.mkdir(parents=True, exist_ok=True)
        if mounted:
            _mount("-o", f"remount,{options}", place)
        else:
            _mount("-t", "tmpfs", "-o", options, "tmpfs", place)
        mounted = True
        return place

    yield make
    if mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def losing_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system that takes 64 MiB and cannot keep more than some: what it lies on is full by then."""
    needed(shutil.which("mkfs.ext4") is not None, "e2fsprogs")
    small, place = tmp_path / "small", tmp_path / "losing"
    small.mkdir()
    place.mkdir()
    _mount("-t", "tmpfs", "-o", "size=6m", "tmpfs", small)
    try:
        image = small / "image"
        image.touch()
        os.truncate(image, 64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
        _mount("-o", "loop", image, place)
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
