"""What is asked for next: a simulation without sockets or clocks."""

from collections import Counter
from collections.abc import Iterator, Mapping

from hypothesis import given
from hypothesis import strategies as st

from framefetch import Limits
from framefetch.engine.schedule import Job, Schedule
from framefetch.models import Request


class Listed:
    """Requests of some hosts; counts how many were made."""

    def __init__(self, hosts: list[int]) -> None:
        self.hosts = hosts
        self.made = 0

    def __len__(self) -> int:
        return len(self.hosts)

    def __getitem__(self, index: int) -> Request:
        self.made += 1
        url = f"http://host{self.hosts[index]}/{index}"
        return Request(index, "v0", url, (url,), f"v0/{index}")

    def queues(self) -> Mapping[str, Iterator[int]]:
        names = sorted(set(self.hosts))
        return {f"http://host{name}:80": self._of(name) for name in names}

    def _of(self, name: int) -> Iterator[int]:
        return (at for at, host in enumerate(self.hosts) if host == name)


@given(
    hosts=st.lists(st.integers(0, 4), max_size=60),
    connections=st.integers(1, 8),
    per_host=st.integers(1, 4),
    data=st.data(),
)
def test_every_row_is_served_once_and_no_limit_is_exceeded(hosts, connections, per_host, data) -> None:
    schedule = Schedule(Listed(hosts), Limits(connections, per_host))
    under_way: list[Job] = []
    served: list[int] = []
    for now in range(1000):
        while isinstance(found := schedule.take(now), Job):
            under_way.append(found)
        assert len(under_way) <= connections
        assert max(Counter(job.origin for job in under_way).values(), default=0) <= per_host
        if schedule.done:
            break
        if under_way:
            job = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            schedule.release(job)
            if job.attempts.made < data.draw(st.integers(0, 1)):
                job.attempts.made += 1
                schedule.again(job, now + 2)
            else:
                served.append(job.request.index)
    assert sorted(served) == list(range(len(hosts)))


def test_the_plan_is_read_lazily() -> None:
    requests = Listed([0] * 1000)
    schedule = Schedule(requests, Limits(10, 10))
    while isinstance(schedule.take(0.0), Job):
        pass
    assert requests.made == 10


def test_a_stuck_host_keeps_nobody_waiting() -> None:
    schedule = Schedule(Listed([0] * 1000 + [1] * 5), Limits(8, 3))
    taken = []
    while isinstance(job := schedule.take(0.0), Job):
        taken.append(job)
        if job.origin == "http://host1:80":
            schedule.release(job)
    assert Counter(job.origin for job in taken) == {"http://host0:80": 3, "http://host1:80": 5}


def test_a_held_host_waits_and_the_others_run_on() -> None:
    schedule = Schedule(Listed([0, 0, 1]), Limits(8, 8))
    schedule.hold("http://host0:80", 5.0)
    assert schedule.take(0.0).request.index == 2
    assert schedule.take(0.0) == 5.0
    assert schedule.take(5.0).request.index == 0


def test_retries_come_before_new_rows_and_hold_no_slot() -> None:
    schedule = Schedule(Listed([0] * 4), Limits(1, 1))
    job = schedule.take(0.0)
    schedule.release(job)
    schedule.again(job, 3.0)
    assert schedule.take(1.0).request.index == 1
    assert schedule.take(1.0) is None  # the only slot is taken
    schedule.release(job)
    assert schedule.take(3.0) is job


def test_a_mirror_on_another_host_is_served_there() -> None:
    schedule = Schedule(Listed([0]), Limits(4, 4))
    job = schedule.take(0.0)
    schedule.release(job)
    moved = Job(Request(0, "v0", "k", ("http://host0/0", "http://elsewhere:81/0"), "v0/0"), job.origin, mirror=1)
    schedule.again(moved, 0.0)
    assert schedule.take(0.0) is moved
    assert moved.origin == "http://elsewhere:81"
    assert not schedule.done
    schedule.release(moved)
    assert schedule.take(0.0) is None
    assert schedule.done
