"""How many at once: what the limit of a host comes to before servers of every kind, in simulations."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framefetch.engine.limits import CEILING, START, Flight, HostLimit
from tests.engine.simulation import Fixed, Server, fetch

K, M = 1 << 10, 1 << 20


def collapsing(at: int, capacity: float) -> object:
    """Give a capacity that falls steeply with more requests than a host can serve at once."""
    return lambda active: capacity * (1 if active <= at else (at / active) ** 1.5)


SERVERS = {
    "far away": (Server(latency=0.05), [8 * K] * 16_000),
    "far away, tail of slow answers": (Server(latency=0.05, jitter=1), [8 * K] * 20_000),
    "far away, slow to connect": (Server(latency=0.05, connect=0.15), [8 * K] * 60_000),
    "bound by requests a second": (Server(latency=0.0003, capacity=lambda _: 8000 * 8 * K), [8 * K] * 5000),
    "bound by bandwidth": (Server(latency=0.02, capacity=lambda _: 100 * M), [M] * 1500),
    "bound by bandwidth, far away": (Server(latency=0.5, capacity=lambda _: 10 * M), [100 * K] * 6000),
    "so much a connection": (Server(latency=0.02, per_connection=M, capacity=lambda _: 40 * M), [2 * M] * 2000),
    "so much a connection, large files": (
        Server(latency=0.02, per_connection=20 * M, capacity=lambda _: 1000 * M),
        [64 * M] * 400,
    ),
    "collapses above 4": (Server(latency=0.01, capacity=collapsing(4, 20 * M)), [100 * K] * 16_000),
    "collapses above 40": (Server(latency=0.05, capacity=collapsing(40, 50 * M)), [50 * K] * 10_000),
    "429 above 2": (Server(latency=0.05, admits=2), [8 * K] * 1000),
    "429 above 20": (Server(latency=0.05, admits=20), [8 * K] * 4000),
    "429 above 100": (Server(latency=0.05, admits=100), [8 * K] * 16_000),
    "one refusal in a thousand": (Server(latency=0.05, flaky=0.001), [8 * K] * 16_000),
    "one refusal in a hundred": (Server(latency=0.05, flaky=0.01), [8 * K] * 30_000),
    "files of all sizes": (
        Server(latency=0.02, capacity=lambda _: 50 * M),
        [int(random.Random(at).lognormvariate(12, 2)) for at in range(3000)],
    ),
}


@pytest.mark.parametrize("name", SERVERS)
def test_no_fixed_setting_is_much_better(name: str) -> None:
    """Ramp included, at least 0.9 of the best fixed setting."""
    server, sizes = SERVERS[name]
    settings = {level for level in (4, 16, 64, 256, server.admits) if level <= min(server.admits, CEILING)}
    best = min(fetch(server, sizes, Fixed(level)).seconds for level in settings)
    assert fetch(server, sizes, HostLimit()).seconds <= best / 0.9


def settled(server: Server, sizes: list[int]) -> list[int]:
    """Return the limits of a run's second half, in order of size."""
    limits = fetch(server, sizes, HostLimit()).limits
    return sorted(limits[len(limits) // 2 :])


def test_where_16_is_as_good_as_64_it_stays_low() -> None:
    for seed in range(5):
        run = fetch(*SERVERS["bound by requests a second"], HostLimit(), seed)
        assert max(run.limits) <= 64
        assert sorted(run.limits)[len(run.limits) // 2] <= START


def test_a_host_that_is_far_away_sees_hundreds_within_few_rounds() -> None:
    """Twice as many, and four times as many once that has brought twice as much: 16 + 32 + 128 files are before it."""
    limits = fetch(Server(latency=0.05), [8 * K] * 2000, HostLimit()).limits
    assert limits[200] == CEILING


def test_the_ceiling_is_seen_only_by_hosts_that_paid_for_it() -> None:
    server, sizes = SERVERS["so much a connection"]
    limits = settled(server, sizes)
    assert limits[len(limits) // 2] == 64, "40 connections of 1 MiB/s fill the 40 MiB/s"


@pytest.mark.parametrize(("admits", "share"), [(2, 0.05), (20, 0.02), (100, 0.03)])
def test_what_a_host_admits_is_found_and_held_with_few_refusals(admits: int, share: float) -> None:
    server, sizes = SERVERS[f"429 above {admits}"]
    run = fetch(server, sizes, HostLimit())
    assert run.refused <= share * len(sizes)
    assert run.most_refusals <= 3
    late = run.limits[len(sizes) // 2 :]
    assert sorted(late)[len(late) // 2] in range(admits, admits + 2)


def test_a_host_that_collapses_is_given_what_it_can_bear() -> None:
    assert settled(*SERVERS["collapses above 4"])[len(SERVERS["collapses above 4"][1]) // 4] in (4, 8)


class Told(HostLimit):
    """Sees that every rise was told of before."""

    rises = 0
    _told = START

    def started(self, now: float) -> Flight:
        if self.limit > START and self.limit > self._seen:
            assert self.limit <= self._told
            self.rises += 1
        self._seen, self._told = self.limit, self.soon
        return super().started(now)

    _seen = START


def test_what_the_limit_may_be_next_is_told_while_it_is_measured() -> None:
    limit = Told()
    assert (limit.limit, limit.soon) == (START, 2 * START)
    fetch(*SERVERS["far away"], limit)
    assert limit.rises == 3
    assert (limit.limit, limit.soon) == (CEILING, CEILING)
    assert HostLimit(20).soon == 20


def test_nothing_more_is_told_of_a_host_that_refused() -> None:
    limit = HostLimit()
    flights = [limit.started(0.0) for _ in range(START)]
    for flight in flights:
        limit.refused(flight, 0.1)
    assert limit.soon == limit.limit < START


def test_a_ceiling_is_never_exceeded() -> None:
    limit = HostLimit(40)
    assert max(fetch(Server(latency=0.05), [8 * K] * 4000, limit).limits) == 40
    assert max(fetch(Server(latency=0.05), [8 * K] * 200, HostLimit(1)).limits) == 1


def test_an_outage_costs_a_few_rounds() -> None:
    """All are refused; later the host takes them again."""
    limit = HostLimit()
    flights = [limit.started(0.0) for _ in range(16)]
    excused = [limit.refused(flight, 0.01) for flight in flights]
    assert (limit.limit, limit.active) == (1, 0)
    assert excused == [True] * 15 + [False], "one at a time is not too many"
    now, served = 0.1, 0
    while limit.limit < 16:
        flights = flights[16:] if limit.active == 0 else flights
        while limit.active < limit.limit:
            flights.append(limit.started(now))
        flight, now = flights.pop(0), now + 0.01
        limit.received(flight, 8 * K, now)
        limit.finished(flight, now)
        served += 1
    assert served <= 60, "about 1 + 1 + 2 + 4 + 8 requests, each level for a round or two"


def test_rows_that_run_out_are_not_the_hosts_slowness() -> None:
    """Where rows are scarce, nothing is tried."""
    limit = HostLimit()
    for at in range(2000):
        flight = limit.started(at * 0.01)
        limit.received(flight, 8 * K, at * 0.01 + 0.005)
        limit.finished(flight, at * 0.01 + 0.005)
    assert limit.limit == START


@settings(max_examples=25, deadline=None)
@given(
    latency=st.floats(0.001, 0.3),
    per_second=st.floats(math.log(10), math.log(2000)).map(math.exp),
    size=st.floats(math.log(4 * K), math.log(8 * M)).map(math.exp).map(int),
    jitter=st.floats(0.2, 1),
    seed=st.integers(0, 9),
)
def test_any_honest_server_is_used_well(latency: float, per_second: float, size: int, jitter: float, seed: int) -> None:
    """At least 0.8 of the best fixed setting, ramp included, also where there are but some seconds to find out."""
    server = Server(latency=latency, capacity=lambda _: size * per_second, jitter=jitter)
    sizes = [size] * int(min(per_second, CEILING / latency) * max(6, 100 * latency))
    best = min(fetch(server, sizes, Fixed(level), seed).seconds for level in (16, 64, 256))
    assert fetch(server, sizes, HostLimit(), seed).seconds <= best / 0.8


@given(
    ceiling=st.integers(1, 300),
    events=st.lists(st.tuples(st.sampled_from("srrffxd"), st.integers(0, 400), st.floats(0, 1)), max_size=400),
)
def test_whatever_happens_the_limit_stays_within_its_bounds(ceiling: int, events: list) -> None:
    limit, flights, now = HostLimit(ceiling), [], 0.0
    for what, which, passed in events:
        now += passed
        before = limit.limit
        if what == "s" or not flights:
            flights.append(limit.started(now))
        elif what == "r":
            grew = limit.received(flights[which % len(flights)], which + 1, now)
            assert grew == (limit.limit > before)
        elif what == "f":
            limit.finished(flights.pop(which % len(flights)), now)
        elif what == "d":
            limit.dropped(flights.pop(which % len(flights)), now)
            assert limit.limit == before
        else:
            excused = limit.refused(flights.pop(which % len(flights)), now)
            assert limit.limit <= before
            assert not excused or limit.limit < before
        assert 1 <= limit.limit <= ceiling
        assert limit.active == len(flights)
