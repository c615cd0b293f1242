"""Which range next, and how many at once: pure."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from framefetch.engine.segments import LARGEST, SMALLEST, Growth, RangePlan
from framefetch.store.extents import Extents

GAPS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 40)), max_size=8).map(
    lambda pairs: [(start << 20, (start + length) << 20) for start, length in pairs]
)


@given(GAPS, st.integers(1, 64), st.randoms(use_true_random=False))
def test_every_missing_byte_is_handed_out_once_whatever_comes_back(gaps, sharers, random) -> None:
    missing = Extents(gaps)
    plan = RangePlan(list(missing))
    got = Extents()
    total = sum(stop - start for start, stop in missing)
    handed = 0
    while (wanted := plan.take(sharers)) is not None:
        start, stop = wanted
        assert 0 < stop - start <= LARGEST + SMALLEST
        done = random.choice([start, stop, stop, (start + stop) // 2])
        plan.put_back(done, stop)
        handed += done - start
        assert not any(start < other_stop and other_start < done for other_start, other_stop in got), "nothing twice"
        got.add(start, done)
    assert list(got) == list(missing)
    assert (handed, plan.left) == (total, 0)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=20), st.integers(0, 80))
def test_extents_are_the_set_of_their_bytes(stretches, total) -> None:
    extents, model = Extents(), set()
    for start, length in stretches:
        extents.add(start, start + length)
        model |= set(range(start, start + length))
    found = list(extents)
    assert {byte for start, stop in found for byte in range(start, stop)} == model
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found)), "disjoint, and apart"
    assert extents.prefix == next(byte for byte in range(200) if byte not in model)
    gaps = {byte for start, stop in extents.gaps(total) for byte in range(start, stop)}
    assert gaps == set(range(total)) - model


def run(rate_of, most: int, steps: int = 60) -> list[int]:
    """Let a growth meet a server that gives so much to so many connections; return its sizes."""
    growth, size, sizes = Growth(most), 1, []
    for _ in range(steps):
        size = growth.step(rate_of(size), waited=0.9)
        sizes.append(size)
    return sizes


def test_a_server_that_caps_each_connection_gets_as_many_as_are_allowed_soon() -> None:
    assert run(lambda size: 20.0 * size, 16)[:4] == [2, 8, 16, 16]
    assert run(lambda size: 20.0 * size, 64)[:5] == [2, 8, 32, 64, 64]


def test_a_link_that_is_full_gets_no_crowd() -> None:
    sizes = run(lambda size: 100.0, 16)
    assert sizes[:3] == [2, 1, 1]
    assert max(sizes) == 2
    assert sizes.count(2) <= 4, "it asks again now and then, ever more rarely"


def test_who_waits_for_the_disk_needs_no_more_connections() -> None:
    growth = Growth(16)
    assert [growth.step(500.0, waited=0.1) for _ in range(10)] == [1] * 10


def test_what_is_refused_is_not_asked_for_again() -> None:
    growth = Growth(16)
    growth.step(20.0, waited=0.9)
    growth.step(40.0, waited=0.9)
    growth.shrink(2)
    assert {growth.step(40.0 * step, waited=0.9) for step in range(1, 30)} == {2}
