"""The thread that writes a body reads on from its socket: where it stops, what it leaves, when it ends."""

import asyncio
import hashlib
import itertools
import random
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import pytest

from framefetch import Timeouts
from framefetch.engine import intake as intakes
from framefetch.engine.content import ContentCheck
from framefetch.engine.intake import Intake
from framefetch.engine.limits import Bandwidth
from framefetch.models import Entity, Receipt
from framefetch.sources.base import Ask, Body, Meter
from framefetch.sources.environment import Environment
from framefetch.sources.http import HttpSource
from framefetch.store.folder import CacheFolder
from framefetch.store.parts import to_the_end
from framefetch.warehouse import WarehouseThread
from tests.store.builders import request

MIB = 1 << 20
BODY = random.Random(1).randbytes(6 * MIB + 4321)


class Spring:
    """A tap that never runs dry."""

    def __init__(self, piece: bytes) -> None:
        self.taken = self.received = 0
        self.has_ahead = self.is_dry = False
        self.error = None
        self._piece = piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        return None

    def read(self, size: int) -> bytes | None:
        self.taken += min(size, len(self._piece))
        return self._piece[:size] or None

    def pour(self, into: Callable[[bytes], None], most: int, seconds: float) -> int:
        piece = self._piece[:most]
        into(piece)
        self.taken += len(piece)
        self.is_dry = not piece
        return len(piece)


class Basin:
    """A part that takes blocks in a thread, as parts do, and calls a function before each."""

    crowd = 0.0
    entity = None

    def __init__(self, before: Callable[[int], None] = lambda count: None, *, flows: bool = False) -> None:
        self.blocks: list[tuple[int, bytes]] = []
        self._before = before
        self._flows = flows
        self.claims: list[int] = []
        self.described: list[Entity | None] = []
        self.threads: set[int] = set()

    def flows_at(self, offset: int) -> bool:
        return self._flows and offset == self.length

    @property
    def length(self) -> int:
        return self.blocks[-1][0] + len(self.blocks[-1][1])

    def flow(self, give: Callable[..., int], most: int, seconds: float) -> int:
        self._before(len(self.blocks))
        self.claims.append(most)
        at = self.length
        return give(lambda piece: self.blocks.append((at, bytes(piece))), most, seconds)

    async def pour(self, blocks: Iterable[tuple[int, Any]], entity: Entity | None = None) -> None:
        self.described.append(entity)
        await to_the_end(asyncio.get_running_loop().run_in_executor(None, self._pour, blocks))

    def _pour(self, blocks: Iterable[tuple[int, Any]]) -> None:
        self.threads.add(threading.get_ident())
        for offset, block in blocks:
            self._before(len(self.blocks))
            self.blocks.append((offset, bytes(block)))


def body_of(taps: Callable[[], Spring | None], first: bytes = b"first", offset: int = 0) -> Any:
    """Return a body that gives one block through the loop, and then taps."""
    pieces = [first]

    async def read() -> bytes:
        return pieces.pop(0) if pieces else b""

    return SimpleNamespace(offset=offset, entity=None, read=read, tap=taps, give_back=lambda block: None)


def intake_of(body: Body) -> Intake:
    return Intake(body, request("v0/1.bin"), ContentCheck("1.bin"), None, Bandwidth(None))


@pytest.mark.parametrize("flows", [False, True])
@pytest.mark.parametrize("stint", [0.0001, 60.0])
async def test_a_stop_that_is_set_while_the_thread_reads_is_where_it_stops(
    stint: float, flows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intakes, "STINT", stint)
    spring = Spring(b"0123456789" * 10)
    intake = intake_of(body_of(lambda: spring, offset=1000))

    def before(count: int) -> None:
        if count == 3:
            intake.stop = intake.position + 2 * MIB + 7

    basin = Basin(before, flows=flows)
    await intake.into(basin)
    assert bool(basin.claims) is flows
    at = 1000
    for offset, block in basin.blocks:
        assert offset == at
        at += len(block)
    assert at == intake.stop, "not a byte beyond"
    assert b"".join(block for _, block in basin.blocks) == (b"first" + b"0123456789" * (at // 10))[: at - 1000]
    assert intake.received == at - 1000
    assert threading.get_ident() not in basin.threads


@pytest.mark.parametrize(("crowd", "stints"), [(0.0, 1), (4.0, 1), (40.0, 7)])
async def test_the_more_are_in_line_the_shorter_a_stint_is(
    crowd: float, stints: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intakes, "STINT", 60.0)
    ticks = SimpleNamespace(monotonic=itertools.count().__next__)  # two of its seconds for each piece
    monkeypatch.setattr(intakes, "time", ticks)
    taps: list[Spring] = []

    def tap() -> Spring:
        taps.append(Spring(bytes(MIB)))
        return taps[-1]

    intake = intake_of(body_of(tap))
    intake.stop = 5 + 20 * MIB
    basin = Basin(flows=True)
    basin.crowd = crowd
    await intake.into(basin)
    assert basin.length == 5 + 20 * MIB
    assert len([each for each in taps if each.taken]) == stints


async def test_what_comes_is_described_in_the_hop_that_writes_the_first_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intakes, "STINT", -1.0)
    body = body_of(lambda: Spring(bytes(MIB)))
    body.entity = Entity("http://host/1.bin", etag='"one"')
    intake = intake_of(body)
    intake.stop = 5 + 3 * MIB
    basin = Basin(before=lambda count: monkeypatch.setattr(intakes, "STINT", 60.0))
    await intake.into(basin)
    assert [len(block) for _, block in basin.blocks] == [5, MIB, MIB, MIB]
    assert basin.described == [body.entity, None]


async def test_a_stop_is_never_set_within_what_flows_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intakes, "STINT", 60.0)
    intake = intake_of(body_of(lambda: Spring(bytes(MIB)), offset=1000))
    seen: list[tuple[int, int]] = []

    class Watched(Basin):
        def flow(self, give: Callable[..., int], most: int, seconds: float) -> int:
            seen.append((intake.position - self.length, most))
            if len(seen) == 3:
                assert not intake.stop_at(intake.position + 2 * MIB - 1)
                assert intake.stop_at(intake.position + 2 * MIB)
            return super().flow(give, most, seconds)

    basin = Watched(flows=True)
    await intake.into(basin)
    assert basin.length == intake.position == intake.stop
    assert [ahead for ahead, _ in seen] == [most for _, most in seen], "all that may flow is claimed before"
    assert {most for _, most in seen[:3]} == {intakes.CLAIM}


async def test_more_is_claimed_where_all_came_and_little_again_where_nothing_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intakes, "STINT", 60.0)
    spring, blocks, claims = Spring(bytes(16 * MIB)), [b"first", b"more"], []
    body = body_of(lambda: spring)

    async def read() -> bytes:
        return blocks.pop(0) if blocks else b""

    class Drying(Basin):
        def flow(self, give: Callable[..., int], most: int, seconds: float) -> int:
            claims.append(most)
            return super().flow(give, most if len(claims) < 5 else 0, seconds)

    body.read = read
    await intake_of(body).into(Drying(flows=True))
    assert claims == [intakes.CLAIM, 2 * intakes.CLAIM, *[intakes.LARGEST_CLAIM] * 3, intakes.CLAIM]


async def test_a_disk_that_refuses_what_flows_leaves_the_place_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intakes, "STINT", 60.0)
    intake = intake_of(body_of(lambda: Spring(bytes(100))))

    def refuse(count: int) -> None:
        if count == 4:
            raise OSError(28, "No space left on device")

    basin = Basin(refuse, flows=True)
    with pytest.raises(OSError, match="No space"):
        await intake.into(basin)
    assert intake.position == basin.length == 305
    assert intake.received == 305


@pytest.mark.parametrize("flows", [False, True])
async def test_a_cancellation_does_not_wait_for_the_end_of_a_stint(
    flows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intakes, "STINT", 60.0)
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    spring = Spring(bytes(100))
    basin = Basin(lambda count: loop.call_soon_threadsafe(begun.set) if count == 10 else None, flows=flows)
    call = asyncio.create_task(intake_of(body_of(lambda: spring)).into(basin))
    await begun.wait()
    call.cancel()
    assert await asyncio.wait([call], timeout=20) == ({call}, set())
    assert call.cancelled()
    count = len(basin.blocks)
    await asyncio.get_running_loop().run_in_executor(None, int)
    assert len(basin.blocks) == count, "the thread had ended by then"


async def test_one_that_waits_for_a_thread_when_it_is_cancelled_writes_one_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intakes, "STINT", 60.0)
    asked, free = asyncio.Event(), threading.Event()

    def taps() -> Spring:
        asked.set()
        return Spring(bytes(100))

    basin = Basin(lambda count: free.wait(20) and None)
    call = asyncio.create_task(intake_of(body_of(taps)).into(basin))
    await asked.wait()
    call.cancel()
    await asyncio.sleep(0)
    free.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 20)
    assert [block for _, block in basin.blocks] == [b"first"]


async def test_what_had_come_ahead_is_written_though_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intakes, "STINT", -1.0)

    class Ahead(Spring):
        left = 5

        def read(self, size: int) -> bytes | None:
            self.left -= 1
            self.has_ahead = self.left > 0
            return super().read(size)

    spring = Ahead(b"ahead")
    spring.has_ahead = True
    taps = [spring]
    basin = Basin()
    await intake_of(body_of(lambda: taps.pop() if taps else None)).into(basin)
    assert b"".join(block for _, block in basin.blocks) == b"first" + b"ahead" * 5


@pytest.mark.parametrize("seed", range(3))
async def test_two_bodies_of_one_file_poured_at_once(seed: int, warehouse: WarehouseThread, tmp_path: Path) -> None:
    url, chance, meter = warehouse.add("/1.bin", BODY), random.Random(seed), Meter()
    split = chance.randrange(2 * MIB, len(BODY) - MIB)
    source = HttpSource(Timeouts(), {}, {}, Environment())
    folder = CacheFolder(tmp_path / "cache")
    try:
        part = await folder.files.create(request("v0/1.bin"))
        async with source.open(url, meter) as first, source.open(url, meter, ask=Ask(split)) as second:
            one, other = intake_of(first), intake_of(second)
            one.stop = split
            await asyncio.gather(one.into(part), other.into(part))
        receipt = await part.publish(length_known=True, etag=None)
    finally:
        await source.close()
        folder.close()
    assert isinstance(receipt, Receipt)
    assert receipt.digests[0].hex == hashlib.md5(BODY).hexdigest()
    assert (tmp_path / "cache" / "v0" / "1.bin").read_bytes() == BODY
    assert other.received == len(BODY) - split
    assert one.received >= split
    assert meter.received == one.received + other.received
    assert source.ahead._dialer._buffers._in_use == 0
