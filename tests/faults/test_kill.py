"""A process that is killed in the middle of a transfer: the next one goes on where it was."""

import hashlib
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from framefetch import MetadataCache
from framefetch.warehouse import Serve, Stop, WarehouseThread, hdf5_file, rate
from tests.conftest import EAGER
from tests.faults.disk.bench import Bench, Fault, Kind, Mode, Stock, audit_and_go_on, recorded, spread
from tests.processes import kill_mirror

MIB = 1 << 20
BODY = hdf5_file(48 * MIB, seed=5)


@pytest.mark.parametrize(("pace", "lanes"), [(None, 1), (rate(16 * MIB), 8)], ids=["one stream", "ranges side by side"])
def test_the_next_process_goes_on(
    pace: object, lanes: int, warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    warehouse.add("/f.nwb", BODY)
    warehouse.script("/f.nwb", Serve(stop=Stop(30 * MIB, "hold")) if pace is None else Serve(pace=pace), then=Serve())
    if pace is not None:
        warehouse.script("/f.nwb", Serve(pace=pace))
    frame = pd.DataFrame({"url": [warehouse.url("/f.nwb")]})
    frame.to_csv(tmp_path / "table.csv", index=False)
    folder = tmp_path / "cache"
    kill_mirror(tmp_path / "table.csv", folder, after=28 * MIB)
    before = warehouse.count("/f.nwb")
    assert (before > 1) is (pace is not None)
    warehouse.script("/f.nwb", Serve())
    with MetadataCache(frame, folder, options=EAGER) as cache:
        result = cache.mirror(frame)
        assert cache.verify("hash") == []
    assert result.frame["md5"].tolist() == [hashlib.md5(BODY).hexdigest()]
    assert (folder / "v0" / "f.nwb").read_bytes() == BODY
    again = result.summary()["bytes"]
    assert again <= len(BODY) - 28 * MIB + 6 * MIB, f"{lanes} connections"
    assert all(record.header("If-Range") for record in warehouse.requests("/f.nwb")[before:])
    assert not list((folder / ".framefetch" / "parts").iterdir())
    note("104", f"SIGKILL with {'one stream' if pace is None else 'ranges side by side'}", "downloaded", before + 1)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("far", [False, True], ids=["parts in one folder", "parts in several"])
def test_a_process_killed_at_its_nth_call(
    far: bool, bench: Bench, warehouse: WarehouseThread, full: bool, tmp_path: Path, note: Callable[..., None]
) -> None:
    """Whichever change of the disk is its last one: part, intent, rename, commit, sync, and all of SQLite's between."""
    contents = {f"v0/s{at}.nwb": hdf5_file(3000 + at, seed=at) for at in range(3)} | {"v0/l.nwb": hdf5_file(1_300_000)}
    stock = Stock.of(warehouse, tmp_path / "table.csv", contents)
    root = tmp_path / "cache"
    words = ["mirror", stock.table, root, *(("--per-host", 1) if far else ())]
    steps = bench.run(*words, far=far, arm=Fault(Kind.CHANGING).armed(root, 1)).calls
    chosen = spread(steps, steps if full else 12)
    for at in chosen:
        shutil.rmtree(root)
        ended = bench.run(*words, far=far, arm=Fault(Kind.CHANGING, Mode.KILL).armed(root, at))
        when = f"killed before call {at}, {ended.call} {ended.path}"
        assert ended.code in ((-signal.SIGKILL, 0) if at == steps else (-signal.SIGKILL,)), f"{when}: {ended}"
        assert {path for path, _, _ in recorded(root)} <= stock.whole(root), f"{when}: a row precedes its file"
        audit_and_go_on(bench, stock, warehouse, root, ended, when)
    what = f"SIGKILL before each of {len(chosen)} changes of the disk{', parts apart' if far else ''}"
    note("105", what, "adopted", 0)
    note("106", what, "row after file", 0)


CONNECTIONS = 2
#: What a kill may cost: what each connection had not noted yet, what was under way in the kernel, one commit window.
COST = CONNECTIONS * (4 + 4) * MIB + 256 * 20_000


@pytest.mark.timeout(1800)
def test_processes_killed_at_random_instants(
    bench: Bench, warehouse: WarehouseThread, full: bool, tmp_path: Path, note: Callable[..., None]
) -> None:
    contents = {f"v0/{at}.nwb": hdf5_file(20_000, seed=at) for at in range(100)}
    contents |= {f"v0/l{at}.nwb": hdf5_file(12 * MIB + at, seed=at) for at in range(3)}
    stock = Stock.of(warehouse, tmp_path / "table.csv", contents)
    # The server's pace, not ours: what we do not read at once waits in the kernel, in up to 32 MiB of a receive buffer.
    warehouse.script_all(Serve(pace=rate(10 * MIB)))
    words = ["mirror", stock.table, tmp_path / "cache", "--max-connections", CONNECTIONS]
    root, total = tmp_path / "cache", sum(map(len, contents.values()))
    chance = random.Random(104)
    kills = rounds = since = again = 0
    while kills < (500 if full else 15) or since:
        ended = bench.run(*words, "--quiet", seconds=chance.uniform(0, 2 if full else 0.9))
        assert ended.code in (0, -signal.SIGKILL), ended.said
        assert (stock.wrong(root), stock.lies(root)) == ([], []), f"after {kills} kills"
        if ended.code:
            kills, since = kills + 1, since + 1
            if (root / "manifest.sqlite").exists() and chance.random() < 0.3:
                looked = bench.run("verify", root, "--hash")
                assert looked.code == 0, f"after {kills} kills: {looked.said}"
            continue
        sent = sum(record.body_bytes for record in warehouse.log)
        assert sent <= total + since * COST, f"{sent:,} bytes for {total:,} with {since} kills"
        again, rounds = again + sent - total, rounds + 1
        assert stock.whole(root) == {path for path, _, _ in recorded(root)} == contents.keys()
        assert os.listdir(root / ".framefetch" / "parts") == []
        shutil.rmtree(root)
        warehouse.clear_log()
        since = 0
    note("104", f"{kills} SIGKILLs in {rounds} mirrors; {again / kills / MIB:.1f} MiB again for each", "identical", 0)
