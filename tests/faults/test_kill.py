"""A process that is killed in the middle of a transfer: the next one goes on where it was."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from framefetch import MetadataCache
from framefetch.warehouse import Serve, Stop, WarehouseThread, hdf5_file, rate
from tests.conftest import EAGER
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
