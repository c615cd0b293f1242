"""How much memory bodies are received into."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from framefetch import Limits, MetadataCache, Options
from framefetch.sources import buffers
from framefetch.sources.buffers import BLOCK, SMALL_BLOCK, Blocks
from framefetch.warehouse import Serve, Stop, WarehouseThread

SIZE = 3_300_000


@pytest.fixture(params=[False, True], ids=["through the loop", "tapped"])
def tapped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Say whether threads may read bodies past the loop; then few blocks are needed, or none."""
    monkeypatch.setattr("framefetch.sources.connection.CAN_TAP", request.param)
    return request.param


def test_blocks_are_small_where_many_are_in_use_and_large_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "MANY", 2 * BLOCK)
    blocks = Blocks()
    first, second = blocks.take(SIZE), blocks.take(SIZE)
    assert (len(first), len(second), blocks.are_scarce) == (BLOCK, BLOCK, True)
    assert len(blocks.take(SIZE)) == SMALL_BLOCK
    blocks.lose(SMALL_BLOCK)  # its connection broke
    assert blocks.give_back(first) == BLOCK
    assert not blocks.are_scarce
    assert len(blocks.take(SIZE)) == BLOCK
    assert len(blocks.take(10)) == 10


def test_many_connections_share_little_memory_and_everything_arrives(
    tapped: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warehouse: WarehouseThread
) -> None:
    most, connections = 2 * BLOCK, 8
    seen: list[int] = []
    take = Blocks.take

    def taken(self: Blocks, size: int) -> memoryview:
        view = take(self, size)
        seen.append(self._in_use)
        return view

    monkeypatch.setattr(buffers, "MANY", most)
    monkeypatch.setattr(Blocks, "take", taken)
    bodies = [random.Random(at).randbytes(SIZE) for at in range(16)]
    table = pd.DataFrame({"url": [warehouse.add(f"{at}.bin", body) for at, body in enumerate(bodies)]})
    options = Options(limits=Limits(per_host=connections))
    with MetadataCache(table, tmp_path / "cache", options=options) as cache:
        frame = cache.mirror(table).frame
    assert list(frame["md5"]) == [hashlib.md5(body).hexdigest() for body in bodies]
    # One block is filled by each connection while it is let have another, and no more than that.
    assert max(seen, default=0) <= most + connections * BLOCK
    assert tapped or min(seen) <= BLOCK


@pytest.mark.usefixtures("tapped")
def test_blocks_of_broken_connections_are_not_counted_for_ever(
    tmp_path: Path,
    warehouse: WarehouseThread,
    open_cache: Callable[..., MetadataCache],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Blocks] = []
    begin = Blocks.__init__

    def remembered(self: Blocks) -> None:
        begin(self)
        made.append(self)

    monkeypatch.setattr(Blocks, "__init__", remembered)
    body = random.Random(1).randbytes(SIZE)
    table = pd.DataFrame({"url": [warehouse.add(f"{at}.bin", body) for at in range(4)]})
    for at in range(4):
        warehouse.script(f"{at}.bin", Serve(stop=Stop(1_500_000 + at)))
    cache = open_cache(table)
    frame = cache.mirror(table).frame
    assert list(frame["status"]) == ["downloaded"] * 4
    assert min(frame["attempts"]) > 1
    assert [blocks._in_use for blocks in made] == [0]
