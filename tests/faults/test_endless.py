"""Case 11: bodies that never end, and what they may take of the disk."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from framefetch import MetadataCache, TransferOptions
from framefetch.engine.transfer import BLOCK
from framefetch.store.files import Part
from framefetch.warehouse import Chunked, Repeated, Serve, Stop, WarehouseThread, bomb, endless, hdf5_file
from tests.conftest import EAGER

MIB = 1 << 20
CAP = 12 * MIB
START = hdf5_file(20_000, seed=1)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give a list of the sizes that parts had when they were dropped."""
    sizes: list[int] = []
    discard = Part.discard

    async def watched(part: Any) -> None:
        sizes.append(Path(part._path).stat().st_size)
        await discard(part)

    monkeypatch.setattr(Part, "discard", watched)
    return sizes


ENDLESS = Repeated(START, endless().block, None)


@pytest.mark.parametrize(
    ("what", "answer", "table"),
    [
        ("no length", Serve(content=ENDLESS, framing="close"), {}),
        ("chunked", Serve(content=ENDLESS, framing=Chunked(65_536)), {}),
        ("a bomb", Serve(content=bomb(64 * MIB), headers={"Content-Encoding": "gzip"}), {}),
        ("size stated", Serve(content=ENDLESS, framing="close"), {"size": float(CAP)}),
    ],
)
def test_an_endless_body_takes_no_more_than_its_cap(
    what: str,
    answer: Any,
    table: dict[str, Any],
    warehouse: WarehouseThread,
    tmp_path: Path,
    parts: list[int],
    note: Callable[..., None],
) -> None:
    frame = pd.DataFrame({"url": [warehouse.url("/1.bin"), warehouse.add("/2.nwb", START)]})
    for column, value in table.items():
        frame[column] = [value, None]
    warehouse.script("/1.bin", answer)
    options = replace(EAGER, transfer=TransferOptions(max_bytes=CAP))
    with MetadataCache(frame, tmp_path / "cache", options=options) as cache:
        result = cache.mirror(frame).frame
    assert result["status"].tolist() == ["failed", "downloaded"]
    assert result["error_type"][0] == "BodyTooLong"
    assert "expected at most 12,582,912 bytes" in result["error"][0]
    assert ("as the table states" if table else "max_bytes") in result["error"][0]
    assert len(parts) == 1
    assert CAP / 4 < parts[0] <= CAP + BLOCK
    assert warehouse.count("/1.bin") == 1
    note("11", f"endless: {what}; {parts[0] / MIB:.0f} MiB on disk of 12", "BodyTooLong", 1)


def test_a_body_that_is_announced_to_be_too_long_is_not_waited_for(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    frame = pd.DataFrame({"url": [warehouse.add("/1.bin", bytes(CAP + 1)), warehouse.add("/2.bin", START)]})
    warehouse.script("/1.bin", Serve(stop=Stop(0, "hold")))
    options = replace(EAGER, transfer=TransferOptions(max_bytes=CAP))
    with MetadataCache(frame, tmp_path / "cache", options=options) as cache:
        result = cache.mirror(frame)
    assert result.frame["status"].tolist() == ["failed", "downloaded"]
    assert "expected at most 12,582,912 bytes (max_bytes), the server says 12,582,913" in result.frame["error"][0]
    assert (warehouse.count("/1.bin"), result.summary()["bytes"]) == (1, len(START))
    note("11", "announced to be longer than the cap", "BodyTooLong", 1)


def test_by_default_an_endless_body_leaves_half_of_the_room(
    warehouse: WarehouseThread,
    tmp_path: Path,
    parts: list[int],
    note: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=20 * MIB, used=0, free=8 * MIB))
    frame = pd.DataFrame({"url": [warehouse.url("/1.bin"), warehouse.add("/2.bin", bytes(6 * MIB))]})
    warehouse.script("/1.bin", Serve(content=ENDLESS, framing="close"))
    with MetadataCache(frame, tmp_path / "cache", options=EAGER) as cache:
        result = cache.mirror(frame).frame
    assert result["error_type"].tolist()[0] == "BodyTooLong"
    assert "expected at most 4,194,304 bytes (half of the free space; max_bytes allows more)" in result["error"][0]
    assert result["status"][1] == "downloaded", "a length that the server states has no such limit"
    assert parts[0] <= 4 * MIB + BLOCK
    note("11", "endless, no cap: half of the free space", "BodyTooLong", 1)
