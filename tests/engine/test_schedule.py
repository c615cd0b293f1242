"""What is asked for next: a simulation without sockets or clocks."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch import Limits, RetryPolicy
from framefetch.engine.lane import Lane
from framefetch.engine.limits import START, Bandwidth
from framefetch.engine.queue import Job
from framefetch.engine.retry import RetryRule
from framefetch.engine.schedule import BACKLOG, Schedule
from framefetch.errors import (
    ConnectFailed,
    FramefetchError,
    IncompleteBody,
    NameNotResolved,
    Stalled,
    StatusError,
    TlsFailed,
    TooManyOpenFiles,
)
from framefetch.models import Request
from framefetch.urls import origin_of


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


class Spread(Listed):
    """Requests with mirrors: for each row the hosts that have it."""

    def __init__(self, rows: list[list[int]]) -> None:
        super().__init__([row[0] for row in rows])
        self.rows = rows

    def __getitem__(self, index: int) -> Request:
        self.made += 1
        urls = tuple(f"http://host{host}/{index}/{at}" for at, host in enumerate(self.rows[index]))
        return Request(index, "v0", urls[0], urls, f"v0/{index}")


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
            schedule.ended(job, None, now)
            if job.attempts.made < data.draw(st.integers(0, 1)):
                job.attempts.made += 1
                schedule.again(job, now + 2)
            else:
                served.append(job.request.index)
    assert sorted(served) == list(range(len(hosts)))


@given(
    hosts=st.lists(st.integers(0, 2), max_size=40),
    answers=st.lists(st.sampled_from([True, False, None, None]), max_size=200),
    down=st.booleans(),
)
def test_a_row_of_which_nobody_can_tell_is_asked_about_again_and_holds_no_other_host_up(hosts, answers, down) -> None:
    asked = iter(answers)
    granted: list[int] = []

    def take(position: int) -> bool | None:
        answer = next(asked, True)
        if answer is not None:
            granted.extend([position] * answer)
            settled.append(position)
        return answer

    settled: list[int] = []
    schedule = Schedule(Listed(hosts), Limits(4, 2), take=take)
    served: list[int] = []
    now = 0.0
    for _ in range(1000):
        while isinstance(found := schedule.take(now), Job):
            if found.cause is None:
                schedule.ended(found, ConnectFailed("refused") if down else None, now)
            served.append(found.request.index)
        if schedule.done:
            break
        assert found is not None, "nothing is under way, so only a time can be waited for"
        assert found > now
        now = found
    assert sorted(settled) == list(range(len(hosts)))
    assert sorted(served) == sorted(granted)


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
            schedule.ended(job, None, 0.0)
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
    schedule.release(job, 0.0)
    schedule.again(job, 3.0)
    other = schedule.take(1.0)
    assert other.request.index == 1
    assert schedule.take(1.0) is None  # the only slot is taken
    schedule.release(other, 1.0)
    assert schedule.take(3.0) is job


def test_a_mirror_on_another_host_is_served_there() -> None:
    schedule = Schedule(Listed([0]), Limits(4, 4))
    job = schedule.take(0.0)
    schedule.release(job, 0.0)
    moved = Job(Request(0, "v0", "k", ("http://host0/0", "http://elsewhere:81/0"), "v0/0"), job.origin, mirror=1)
    schedule.again(moved, 0.0)
    assert schedule.take(0.0) is moved
    assert moved.origin == "http://elsewhere:81"
    assert not schedule.done
    schedule.release(moved, 0.0)
    assert schedule.take(0.0) is None
    assert schedule.done


def takes(schedule: Schedule, now: float) -> list[Job]:
    jobs = []
    while isinstance(job := schedule.take(now), Job):
        jobs.append(job)
    return jobs


def down(hosts: list[int], error: FramefetchError, *, answered: bool = False) -> tuple[Schedule, int, float]:
    """Fail all requests to the first host until it is given up; return how many were sent, and when that was."""
    schedule = Schedule(Listed(hosts), Limits(), RetryRule(RetryPolicy(attempts=5, base=0.5)))
    now, sent = 0.0, 0
    if answered:
        schedule.ended(schedule.take(now), None, now)
    while True:
        found = schedule.take(now)
        if isinstance(found, float):
            assert found > now
            now = found
        elif found.cause is not None:
            schedule.again(found, now)
            return schedule, sent, now
        else:
            jobs = [found, *takes(schedule, now)]
            sent += len(jobs)
            for job in jobs:
                schedule.ended(job, error, now + 0.01)
                schedule.again(job, now + 0.1)
            now += 0.01


@pytest.mark.parametrize(
    ("error", "answered", "rounds"),
    [
        (ConnectFailed("refused"), False, 5),
        (ConnectFailed("refused"), True, 10),
        (Stalled("silence"), False, 5),
        (StatusError("busy", status=503), False, 5),
        (NameNotResolved("no address"), False, 2),
        (TlsFailed("self-signed"), False, 1),
        (TlsFailed("self-signed"), True, 2),
    ],
)
def test_a_host_that_does_not_answer_is_given_up(error: FramefetchError, answered: bool, rounds: int) -> None:
    """First as many as begin at once, then one after each pause; what is left fails with one cause."""
    hosts = [0] * 3000
    schedule, sent, _ = down(hosts, error, answered=answered)
    assert sent == START + rounds - 1
    condemned = takes(schedule, 1e6)
    assert len(condemned) == 3000 - answered, "those that were tried too"
    cause = condemned[0].cause
    assert all(job.cause is cause for job in condemned)
    assert type(cause) is type(error)
    tries = "1 try without" if sent == START else f"{sent} tries in"
    assert f"{error} [the host is given up after {tries}" in str(cause)
    assert schedule.done


def test_the_pauses_of_a_host_are_drawn_and_grow() -> None:
    ends = sorted(down([0] * 100, ConnectFailed("x"))[2] for _ in range(40))
    assert ends[-1] <= 0.5 + 1 + 2 + 4 + 1
    assert 1.5 < ends[20] < 6
    assert len({round(end, 2) for end in ends}) > 20


def test_an_answer_of_any_kind_ends_the_trouble() -> None:
    schedule = Schedule(Listed([0] * 50), Limits(), RetryRule(RetryPolicy(base=5.0)))
    first, *others = takes(schedule, 0.0)
    schedule.ended(first, ConnectFailed("x"), 0.1)
    schedule.again(first, 0.1)
    for job in others[:-1]:
        schedule.ended(job, ConnectFailed("x"), 0.1)
    assert not isinstance(schedule.take(0.1), Job)
    schedule.ended(others[-1], StatusError("gone", status=404), 0.2)
    assert isinstance(schedule.take(0.2), Job)


def test_a_host_in_trouble_is_asked_for_another_file() -> None:
    """Whether the file or the host is the trouble, the same file cannot tell."""
    schedule = Schedule(Listed([0] * 50), Limits(), RetryRule(RetryPolicy(base=0.0)))
    tried = takes(schedule, 0.0)
    for job in tried:
        schedule.ended(job, Stalled("x"), 1.0)
        schedule.again(job, 1.0)
    probe = takes(schedule, 1.0)
    assert [job.request.index for job in probe] == [START]


def test_a_body_that_breaks_off_is_an_answer() -> None:
    schedule = Schedule(Listed([0] * 40), Limits(), RetryRule(RetryPolicy(base=9.0)))
    for _ in range(30):
        job = schedule.take(0.0)
        schedule.heard(job, 1000, 0.0)
        schedule.ended(job, IncompleteBody("x"), 0.0)
    job = schedule.take(0.0)
    schedule.heard(job, 1000, 0.0)
    schedule.ended(job, Stalled("x"), 0.0)
    assert isinstance(schedule.take(0.0), Job)


def test_too_many_at_once_is_our_own_doing_only_where_there_were_many() -> None:
    schedule = Schedule(Listed([0] * 100), Limits())
    jobs = takes(schedule, 0.0)
    assert [schedule.ended(job, StatusError("busy", status=429), 0.01) for job in jobs[:14]] == [True] * 14
    assert len(takes(schedule, 0.02)) == 0, "two are under way, which is what the host took"
    for job in jobs[14:]:
        schedule.heard(job, 10, 0.03)
        schedule.ended(job, None, 0.03)
    assert len(takes(schedule, 0.04)) == 2
    few = Schedule(Listed([0] * 3), Limits())
    assert [few.ended(job, StatusError("busy", status=503), 0.01) for job in takes(few, 0.0)] == [False] * 3


def test_rows_of_a_host_that_is_down_wait_for_the_mirror_not_in_memory() -> None:
    """Ten thousand rows that go on to a mirror are sent there as it takes them."""

    requests = Spread([[0, 1]] * 20_000)
    schedule = Schedule(requests, Limits(), RetryRule(RetryPolicy(attempts=1)))
    schedule.ended(schedule.take(0.0), ConnectFailed("x"), 0.0)
    served, most = 0, 0
    while not schedule.done:
        jobs = takes_or_moves(schedule)
        most = max(most, requests.made - served)
        for job in jobs:
            schedule.heard(job, 10, 0.0)
            schedule.ended(job, None, 0.0)
            served += 1
    assert served == 20_000 - 1
    assert most <= BACKLOG + 256 + 2


def takes_or_moves(schedule: Schedule) -> list[Job]:
    jobs = []
    for job in iter(lambda: schedule.take(0.0), None):
        if job.cause is not None:
            job.mirror = 1
            schedule.again(job, 0.0)
        else:
            jobs.append(job)
    return jobs


@pytest.mark.parametrize("status", [404, 500])
def test_rows_that_a_host_fails_at_once_wait_for_a_slow_mirror_not_in_memory(status: int) -> None:
    """And the rows of a host that has nothing to do with it do not wait at all."""
    requests = Spread([[0, 1]] * 20_000 + [[2]] * 5000)
    schedule = Schedule(requests, Limits())
    slow: deque[Job] = deque()
    served, beside, most = 0, 0, 0
    while not schedule.done:
        found = schedule.take(0.0)
        if found is None:  # only then the mirror has sent one
            assert beside == 5000
            most = max(most, requests.made - beside - served)
            schedule.ended(slow.popleft(), None, 0.0)
            served += 1
        elif found.origin == "http://host0:80":
            schedule.ended(found, StatusError("x", status=status), 0.0)
            found.mirror = 1
            schedule.again(found, 0.0)
        elif found.origin == "http://host1:80":
            slow.append(found)
        else:
            schedule.ended(found, None, 0.0)
            beside += 1
    assert served == 20_000
    assert most <= BACKLOG + 256 + 2


def test_rows_that_come_back_from_a_mirror_are_not_held_against_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framefetch.engine.schedule.BACKLOG", 4)
    schedule = Schedule(Spread([[0, 1]] * 100 + [[1]] * 100), Limits())
    guests: set[int] = set()
    served = 0
    while isinstance(found := schedule.take(0.0), Job):
        if found.request.index >= 100:
            schedule.ended(found, None, 0.0)
            served += 1
            continue
        schedule.ended(found, IncompleteBody("cut"), 0.0)
        found.mirror = 1 - found.mirror
        schedule.again(found, 0.0 if found.mirror else 9.0)
        guests.add(found.request.index)
    assert found == 9.0
    assert 4 <= len(guests) <= 4 + START
    assert served == 100


def test_hosts_that_go_down_together_do_not_wait_for_each_other() -> None:
    schedule = Schedule(Listed([0, 1, 2] * 2200), Limits(), RetryRule(RetryPolicy(attempts=1)))
    while isinstance(job := schedule.take(0.0), Job):
        schedule.ended(job, IncompleteBody("cut"), 0.0)
        schedule.again(job, 1e6)
    now, condemned = 1e6, 0
    while (found := schedule.take(now)) is not None:
        if isinstance(found, float):
            now = found
        elif found.cause is None:
            schedule.ended(found, ConnectFailed("down"), now)
            schedule.again(found, now)
        else:
            condemned += 1
    assert condemned == 3 * 2200
    assert schedule.done


class Play:
    """A run without sockets: hosts go down, rows fail for good or for a while, and the schedule hears of it."""

    def __init__(self, rows: list[list[int]], limits: Limits, chance: Random) -> None:
        self.schedule = Schedule(Spread(rows), limits, RetryRule(RetryPolicy(attempts=2)))
        self.chance = chance
        self.down = {f"http://host{at}:80": chance.choice([0.0, 3.0, float("inf"), float("inf")]) for at in range(4)}
        self.settled: list[int] = []
        self.now = 0.0

    def end(self, job: Job) -> None:
        """Let a request end somehow."""
        if self.now >= self.down[job.origin]:
            error = ConnectFailed("down")
        else:
            errors = [None, IncompleteBody("cut"), StatusError("gone", status=404), StatusError("odd", status=500)]
            error = self.chance.choice(errors)
        self.schedule.ended(job, error, self.now)
        if self.chance.random() < 0.1:
            self.schedule.hold(job.origin, self.now + 2.0)
        if error is None:
            self.settled.append(job.request.index)
        else:
            self.fail(job, error)

    def fail(self, job: Job, error: FramefetchError) -> None:
        """Send a row on to its next mirror, now or later; else it is at its end."""
        job.attempts.made += 1
        urls = job.request.urls
        if job.cause is not None:
            job.dead.update(at for at, url in enumerate(urls) if origin_of(url) == job.origin)
        elif not error.retryable:
            job.dead.add(job.mirror)
        turns = [(job.mirror + step) % len(urls) for step in range(1, len(urls) + 1)]
        mirror = next((at for at in turns if at not in job.dead), None)
        if mirror is None or job.attempts.made > 12:
            self.settled.append(job.request.index)
        else:
            job.mirror = mirror
            self.schedule.again(job, self.now + self.chance.choice([0.0, 0.0, 1.0, 5.0]))

    def follow(self, job: Job) -> None:
        """Let the next row have the slot too, but not now."""
        following = self.schedule.follow(job.origin, self.now, lambda _: self.chance.random() < 0.7)
        if following is not None:
            self.schedule.put_back(job.origin, [following])


@given(
    rows=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=60),
    connections=st.integers(1, 8),
    per_host=st.integers(1, 4),
    backlog=st.integers(1, 5),
    chance=st.randoms(use_true_random=False),
)
def test_a_schedule_with_nothing_under_way_goes_on_or_is_done(rows, connections, per_host, backlog, chance) -> None:
    """And no more rows are begun and not settled than may wait, at each host and at mirrors, or be under way."""
    play = Play(rows, Limits(connections, per_host), chance)
    schedule, under_way, begun = play.schedule, [], set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("framefetch.engine.schedule.BACKLOG", backlog)
        while not schedule.done:
            found = schedule.take(play.now)
            if isinstance(found, Job):
                begun.add(found.request.index)
                assert len(begun) - len(play.settled) <= 4 * (backlog + per_host) + backlog + connections
            if isinstance(found, Job) and found.cause is not None:
                play.fail(found, found.cause)
            elif isinstance(found, Job):
                under_way.append(found)
                play.follow(found)
            elif not under_way and not schedule.done:
                assert found is not None, "nothing is under way, so only a time can be waited for"
                assert found > play.now
                play.now = found
            if under_way and (not isinstance(found, Job) or chance.random() < 0.5):
                play.end(under_way.pop(chance.randrange(len(under_way))))
    assert sorted(play.settled) == list(range(len(rows)))


def test_the_last_slots_are_for_hosts_that_have_few() -> None:
    """One host has climbed and takes all it is given; another one begins."""
    schedule = Schedule(Listed([0] * 5000 + [1] * 5), Limits(64, 64))
    host = schedule._hosts["http://host0:80"]
    host.limit.limit = 64
    late = schedule._hosts["http://host1:80"]
    schedule.hold("http://host1:80", 1.0)
    assert len(takes(schedule, 0.0)) == 64 - 8
    assert {job.origin for job in takes(schedule, 1.0)} == {late.origin}
    assert schedule.active == 64 - 8 + 5


def test_running_out_of_descriptors_lowers_what_is_asked_at_once_and_is_held_against_nobody() -> None:
    schedule = Schedule(Listed([0] * 40), Limits(16, 16))
    jobs = [job for _ in range(16) if isinstance(job := schedule.take(0.0), Job)]
    assert len(jobs) == 16
    assert schedule.ended(jobs.pop(), TooManyOpenFiles("no more"), 1.0), "our own doing"
    assert isinstance(schedule.take(1.0), float | None), "fifteen are enough"
    assert schedule.ended(jobs.pop(), None, 2.0) is False
    assert isinstance(schedule.take(2.0), Job), "the host is asked as before"


def test_rows_follow_in_a_slot_in_order_and_can_be_put_back() -> None:
    schedule = Schedule(Listed([0] * 8), Limits(4, 4))
    first = schedule.take(0.0)
    follows = [schedule.follow(first.origin, 0.0, lambda _: True) for _ in range(3)]
    assert [job.request.index for job in follows] == [1, 2, 3]
    schedule.put_back(first.origin, follows[1:])
    assert schedule.follow(first.origin, 0.0, lambda request: request.index != 2) is None
    assert schedule.room(first.origin, 1, 0.0) == 3, "one slot is for the row that does not suit"
    assert [schedule.take(0.0).request.index for _ in range(3)] == [2, 3, 4]
    assert schedule.room(first.origin, 1, 0.0) == 1
    flight = first.flight
    for now in (1.0, 2.0):
        flight = schedule.carried(first.origin, flight, 100, now)
    assert schedule.active == 4
    schedule.give_back(first.origin, flight, 3.0)
    assert schedule.active == 3
    assert schedule.take(3.0).request.index == 5


def test_no_slot_is_lent_while_rows_wait_and_the_row_that_was_looked_at_is_the_next() -> None:
    schedule = Schedule(Listed([0] * 20), Limits(40, 40))
    begun = takes(schedule, 0.0)
    assert len(begun) == START
    assert schedule.borrow(begun[0].origin, 0.0) is None
    left = []
    for job in begun:
        schedule.ended(job, None, 1.0)
        left += [found.request.index for found in takes(schedule, 1.0)]
    assert left == list(range(START, 20))


def test_a_borrowed_slot_is_missed_once_a_row_is_due_that_cannot_have_one() -> None:
    schedule = Schedule(Listed([0, 0, 1]), Limits(40, 40))
    large, beside, cut = takes(schedule, 0.0)
    lanes = [flight for _ in range(30) if (flight := schedule.borrow(large.origin, 0.0)) is not None]
    assert len(lanes) == 30, "more than begin at once"
    assert not schedule.misses(large.origin, 0.0)
    schedule.ended(cut, IncompleteBody("cut"), 1.0)
    schedule.again(cut, 2.0)
    assert not schedule.misses(large.origin, 1.9)
    assert not isinstance(schedule.take(2.0), Job)
    given = 0
    while schedule.misses(large.origin, 2.0):
        schedule.give_back(large.origin, lanes.pop(), 2.0)
        given += 1
    assert given == 1 + 30 - START + 1, "then one less than begin at once are under way"
    assert schedule.take(2.0) is cut
    schedule.ended(cut, None, 3.0)
    while (flight := schedule.borrow(large.origin, 3.0)) is not None:
        lanes.append(flight)
    assert schedule.active == 40
    schedule.ended(beside, IncompleteBody("cut"), 3.0)
    schedule.again(beside, 4.0)
    lanes.append(schedule.borrow(large.origin, 3.0))
    assert not schedule.misses(large.origin, 3.9)
    assert schedule.misses(large.origin, 4.0), "by another host, as all are taken"
    schedule.give_back(large.origin, lanes.pop(), 4.0)
    assert not schedule.misses(large.origin, 4.0)
    assert schedule.take(4.0) is beside


def test_whoever_waits_hears_of_each_slot_that_is_given_back() -> None:
    schedule = Schedule(Listed([0]), Limits(4, 4))
    active_when_woken: list[int] = []
    lane = Lane(
        schedule.take(0.0), schedule, Bandwidth(None), lambda: 0.0, lambda: active_when_woken.append(schedule.active)
    )
    assert [lane.borrow() for _ in range(4)] == [True] * 3 + [False]
    lane.give_back()
    assert active_when_woken == [3]
    lane.close()
    assert active_when_woken == [3, 2, 1]


def test_nothing_follows_where_a_host_is_held_or_in_trouble() -> None:
    schedule = Schedule(Listed([0] * 8), Limits(4, 4))
    first, second = schedule.take(0.0), schedule.take(0.0)
    schedule.hold(first.origin, 5.0)
    assert schedule.follow(first.origin, 4.9, lambda _: True) is None
    assert schedule.room(first.origin, 2, 4.9) == 0
    assert schedule.room(first.origin, 2, 5.0) == 4
    schedule.ended(second, ConnectFailed("no"), 5.0)
    assert schedule.follow(first.origin, 5.0, lambda _: True) is None
    assert schedule.room(first.origin, 1, 5.0) == 0
    schedule.ended(first, None, 5.0)
    assert schedule.follow(first.origin, 5.0, lambda _: True) is not None


def test_a_slot_that_goes_on_leaves_room_for_retries_and_for_other_hosts() -> None:
    schedule = Schedule(Listed([0] * 8 + [1] * 8 + [2] * 8), Limits(2, 4))
    first, second = schedule.take(0.0), schedule.take(0.0)
    assert {schedule.room(job.origin, 1, 0.0) for job in (first, second)} == {0}
    schedule = Schedule(Listed([0] * 8), Limits(2, 2))
    first, second = schedule.take(0.0), schedule.take(0.0)
    assert schedule.room(first.origin, 2, 0.0) == 2
    schedule.ended(second, IncompleteBody("cut"), 0.0)
    schedule.again(second, 1.0)
    assert schedule.room(first.origin, 1, 0.9) == 2
    assert schedule.room(first.origin, 1, 1.0) == 1


def outlook(hosts: list[int], limits: Limits, taken: int = 0) -> tuple[int, int]:
    """Return how many requests the first host may have now, and soon, when so many were begun."""
    schedule = Schedule(Listed(hosts), limits)
    for _ in range(taken):
        assert isinstance(schedule.take(0.0), Job)
    return schedule.outlook("http://host0:80")


def test_how_many_requests_a_host_may_have_soon() -> None:
    many = [0] * 1000
    assert outlook(many, Limits()) == (START, 2 * START)
    assert outlook(many, Limits(), taken=START) == (START, 2 * START)
    assert outlook(many, Limits(per_host=20)) == (START, 20)
    assert outlook(many, Limits(connections=24), taken=START) == (START, 24)
    assert outlook([0] * 18, Limits()) == (START, 18), "no more than there are files"
    assert outlook([0] * START, Limits(), taken=START) == (START, START)
    assert outlook([0, 1] * 500, Limits(connections=40)) == (START, 20), "others may need as many"


def test_a_host_in_trouble_is_not_prepared_for_more() -> None:
    schedule = Schedule(Listed([0] * 1000), Limits())
    job = schedule.take(0.0)
    assert isinstance(job, Job)
    schedule.ended(job, ConnectFailed("no"), 0.0)
    now, soon = schedule.outlook("http://host0:80")
    assert soon == now


@pytest.mark.parametrize("unheard", [False, True], ids=["a silent body", "a connection that nobody noticed"])
def test_whether_an_early_end_is_said_of_the_host(unheard) -> None:
    schedule = Schedule(Listed([0] * 1000), Limits())
    jobs = [schedule.take(0.0) for _ in range(START)]
    for job in jobs:
        assert isinstance(job, Job)
        schedule.ended(job, Stalled("nothing came", early=True, unheard=unheard), 5.0)
    circuit = schedule._hosts["http://host0:80"].circuit
    assert circuit.troubled is not unheard
    assert isinstance(schedule.take(5.0), Job) is unheard
