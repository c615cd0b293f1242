"""Servers of other languages: Caddy (Go) and WEBrick (Ruby), each with its own idea of names, ranges and versions."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from framefetch import MetadataCache, TableOptions
from framefetch.warehouse import hdf5_file
from tests import servers
from tests.conftest import EAGER, needed
from tests.processes import kill_mirror
from tests.servers import Server

pytestmark = pytest.mark.servers

MIB = 1 << 20
BIG = hdf5_file(40 * MIB, seed=1)
#: Long before today: a date that tells versions apart.
OLD = 1_600_000_000
ODD_NAMES = (
    "two words.nwb", " edges .nwb", "100%.nwb", "%41.nwb", "%2e%2e.nwb", "a+b&c=d;e.nwb", "what?.nwb", "#1.nwb",
    "Größe µm.nwb", "脳.nwb", "🧠.nwb", "it's (one) [of] {many}.nwb", "~user@host,$5!.nwb", "no suffix", ".hidden.nwb",
    "deep/er/two words.nwb", "d\u00e9j\u00e0/vu.nwb", "a" * 200 + ".nwb", "UPPER.NWB", "x.tar.gz.txt",
)  # fmt: skip

#: Names that would mean something to a shell, or nothing to Windows.
KEPT_AS = {"what?.nwb": "what%3F.nwb", "~user@host,$5!.nwb": "%7Euser@host,$5!.nwb"}

Serve = Callable[[Path], Server]


@pytest.fixture(params=["caddy", "webrick"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serve]:
    """Give a function that starts one of the servers on a folder."""
    probe = {"caddy": ["caddy", "version"], "webrick": ["ruby", "-rwebrick", "-e", ""]}[request.param]
    there = shutil.which(probe[0]) is not None and subprocess.run(probe, capture_output=True).returncode == 0
    needed(there, {"caddy": "Caddy", "webrick": "Ruby with WEBrick"}[request.param])
    started: list[Server] = []

    def start(root: Path) -> Server:
        started.append(getattr(servers, request.param)(root, tmp_path))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def put(www: Path, name: str, body: bytes, at: int = OLD) -> None:
    path = www / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    os.utime(path, (at, at))


def test_a_table_of_odd_names(serve: Serve, tmp_path: Path) -> None:
    bodies = {name: hdf5_file(3000 + at, seed=at) for at, name in enumerate(ODD_NAMES)}
    bodies |= {f"plain-{at}.nwb": hdf5_file(100_000 * at + 600, seed=at) for at in range(18)}
    bodies |= {"empty.txt": b"", "big.nwb": BIG}
    for name, body in bodies.items():
        put(tmp_path / "www", name, body)
    server = serve(tmp_path / "www")
    table = pd.DataFrame({"name": list(bodies)})
    options = TableOptions(url_template=f"http://{server.host}/{{name}}", path_template="{name}")
    with MetadataCache(table, tmp_path / "cache", table=options, options=EAGER) as cache:
        result = cache.mirror(table)
        result.raise_for_failures()
        assert result.frame["md5"].tolist() == [hashlib.md5(body).hexdigest() for body in bodies.values()]
        assert set(result.frame["verified"]) == {"length"}
        for name, path in zip(bodies, result.paths, strict=True):
            assert path == str(tmp_path / "cache" / "v0" / KEPT_AS.get(name, name))
            assert Path(path).read_bytes() == bodies[name]
        before = server.statuses()
        assert before.count(200) == len(bodies) == 40
        assert len(before) == result.summary()["requests"]
        again = cache.mirror(table)
        assert set(again.frame["status"]) == {"cached"}
        assert again.summary()["requests"] == 0
        assert server.statuses() == before


@pytest.mark.parametrize("meanwhile", ["nothing", "another file of the same length"])
def test_the_next_process_goes_on_after_a_sudden_end(serve: Serve, meanwhile: str, tmp_path: Path) -> None:
    """WEBrick takes If-Range for If-Modified-Since: 304 where the date holds, else the end of the new file."""
    put(tmp_path / "www", "f.nwb", BIG)
    server = serve(tmp_path / "www")
    frame = pd.DataFrame({"url": [f"http://{server.host}/f.nwb"]})
    frame.to_csv(tmp_path / "table.csv", index=False)
    folder = tmp_path / "cache"
    kill_mirror(tmp_path / "table.csv", folder, "--bandwidth", "60M", after=20 * MIB)
    right = BIG if meanwhile == "nothing" else hdf5_file(40 * MIB, seed=2)
    put(tmp_path / "www", "f.nwb", right, OLD if meanwhile == "nothing" else OLD + 1000)
    with MetadataCache(frame, folder, options=EAGER) as cache:
        result = cache.mirror(frame)
        result.raise_for_failures()
        assert cache.verify("hash") == []
    assert (folder / "v0" / "f.nwb").read_bytes() == right
    assert result.frame["md5"].tolist() == [hashlib.md5(right).hexdigest()]
    assert not list((folder / ".framefetch" / "parts").iterdir())
    figures, knows_if_range = result.summary(), server.process.args[0] == "caddy"
    if knows_if_range and meanwhile == "nothing":
        assert figures["bytes"] <= len(BIG) - 20 * MIB + 6 * MIB, "what had come is not asked for again"
    else:
        assert figures["bytes"] == len(right)
        assert figures["requests"] == (1 if knows_if_range else 2)
    if meanwhile == "nothing":
        assert (304 in server.statuses()) is not knows_if_range
