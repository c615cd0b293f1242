"""When silence ends an exchange: the limits, and what others of the host do meanwhile."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pandas as pd
import pytest

from framefetch import Limits, MetadataCache, Options, RetryPolicy, Timeouts
from framefetch.sources.watchdog import (
    FEW,
    HASTE,
    HASTE_MUTE,
    OTHERS,
    UNUSUAL,
    UNUSUAL_WAIT,
    Manner,
    Watch,
    left_behind,
)
from framefetch.warehouse import Serve, Stop, hdf5_file

TIMEOUTS = Timeouts()


class Target:
    """A connection whose body has not come."""

    complete = False
    received_any = False

    def __init__(self) -> None:
        self.error = None

    def fail(self, error) -> None:
        self.error = error


class Dog:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def add(self, watch) -> None: ...

    def remove(self, watch) -> None: ...


def many(_: Manner) -> int:
    return OTHERS


def silent(dog: Dog, *, others: int = OTHERS, before: int = 0, longest: float = 0.01, took: float = 0.0) -> Watch:
    """Return the watch of a body that has just fallen silent, after which others come to their ends."""
    watch = Watch(dog, "http://host/a")
    watch.manner = Manner()
    watch.manner.ended = before
    watch.begin(Target())
    watch.enter_body()
    dog.time += took
    watch.progress(1000)
    watch.manner.ended += others
    watch.manner.longest = longest
    return watch


def patience(dog: Dog, watch: Watch, under_way: int = OTHERS) -> float | None:
    """Return the seconds of silence after which it is left behind, None where that is the stall timeout's business."""
    for tick in range(1, 4 * int(TIMEOUTS.stall)):
        if left_behind(watch, dog.time + tick / 4, TIMEOUTS, lambda _: under_way) is not None:
            return tick / 4
    return None


@pytest.mark.parametrize(
    ("circumstances", "expected"),
    [
        ({}, HASTE),
        ({"longest": 2.0}, 2.0 * UNUSUAL),
        ({"took": 7.0, "longest": 0.0}, 7.0),
        ({"others": OTHERS - 1}, None),
        ({"longest": 60.0}, None),
        ({"took": 3600.0}, None),
    ],
    ids=["usual", "the host pauses", "much has come", "few others", "the host pauses long", "very much has come"],
)
def test_patience_with_one_body_while_others_come(circumstances, expected) -> None:
    dog = Dog()
    assert patience(dog, silent(dog, **circumstances)) == expected


@pytest.mark.parametrize(
    ("circumstances", "under_way", "expected"),
    [
        ({"before": OTHERS}, OTHERS - 1, FEW * HASTE),
        ({"before": OTHERS}, OTHERS, None),
        ({"before": OTHERS - 1}, 1, None),
        ({"before": OTHERS, "took": 4.0}, 1, FEW * 4.0),
        ({"before": OTHERS, "took": 6.0}, 1, None),
        ({"before": OTHERS, "longest": 1.0}, 1, FEW * UNUSUAL * 1.0),
    ],
    ids=["few are left", "a silent host", "an unknown host", "much has come", "too much has come", "the host pauses"],
)
def test_patience_with_one_of_the_last_bodies(circumstances, under_way, expected) -> None:
    dog = Dog()
    assert patience(dog, silent(dog, others=0, **circumstances), under_way) == expected


def test_the_same_url_gets_twice_as_long_each_time_until_the_stall_timeout_is_left() -> None:
    dog, manner, given = Dog(), Manner(), []
    for _ in range(6):
        watch = silent(dog)
        watch.manner.hurried = manner.hurried
        given.append(patience(dog, watch))
    assert given == [HASTE, 2 * HASTE, 4 * HASTE, 8 * HASTE, None, None]


def test_a_short_stall_timeout_is_kept_to() -> None:
    dog = Dog()
    watch = silent(dog)
    short = Timeouts(stall=2.0)
    assert all(left_behind(watch, dog.time + tick / 10, short, many) is None for tick in range(60))


def test_our_own_pause_is_not_the_hosts_silence() -> None:
    dog = Dog()
    watch = silent(dog)
    watch.pause()
    dog.time += 20
    assert left_behind(watch, dog.time, TIMEOUTS, many) is None
    watch.resume()
    assert left_behind(watch, dog.time + HASTE / 2, TIMEOUTS, many) is None
    watch.progress(1)
    assert watch.manner.longest == 0.01


def test_a_head_that_does_not_come_has_the_whole_stall_timeout() -> None:
    dog = Dog()
    watch = Watch(dog, "http://host/a")
    watch.manner = Manner()
    watch.begin(Target())
    watch.manner.ended = 1000
    assert patience(dog, watch) is None


def mute(dog: Dog, *, others: int = OTHERS, before: int = 0, usual: float = 0.01, keeps: bool = True) -> Watch:
    """Return the watch of a request on a connection on which the server has never spoken; then others end."""
    watch = Watch(dog, "http://host/a")
    watch.manner = Manner()
    watch.manner.ended = before
    watch.manner.keeps = keeps
    watch.begin(Target(), mute=True)
    watch.manner.ended += others
    watch.manner.waited = usual * watch.manner.ended
    return watch


@pytest.mark.parametrize(
    ("circumstances", "under_way", "expected"),
    [
        ({}, OTHERS, HASTE_MUTE),
        ({"keeps": False}, OTHERS, None),
        ({"others": OTHERS - 1}, OTHERS, None),
        ({"usual": 0.5}, OTHERS, 0.5 * UNUSUAL_WAIT),
        ({"usual": 1.0}, OTHERS, None),
        ({"others": 1, "before": OTHERS}, OTHERS - 1, FEW * HASTE_MUTE),
        ({"others": 0, "before": OTHERS}, OTHERS - 1, None),
        ({"others": 1, "before": OTHERS}, OTHERS, None),
        ({"others": 1, "before": OTHERS - 2}, 1, None),
    ],
    ids=[
        "usual",
        "a new connection for each answer",
        "few others",
        "slow answers",
        "very slow answers",
        "few are left",
        "a host that has fallen silent",
        "a host that has almost fallen silent",
        "an unknown host",
    ],
)
def test_patience_with_a_connection_on_which_the_server_never_spoke(circumstances, under_way, expected) -> None:
    dog = Dog()
    assert patience(dog, mute(dog, **circumstances), under_way) == expected


def test_a_connection_that_has_spoken_is_not_mute_and_a_file_is_asked_for_elsewhere_once() -> None:
    dog = Dog()
    watch = mute(dog)
    watch._target.received_any = True
    assert patience(dog, watch) is None
    watch._target.received_any = False
    assert patience(dog, watch) == HASTE_MUTE
    assert patience(dog, watch) is None


def test_that_a_host_keeps_connections_is_seen_by_the_second_answer_on_one() -> None:
    dog = Dog()
    watch = mute(dog, keeps=False)
    watch.enter_body()
    assert not watch.manner.keeps
    watch.begin(Target())
    watch.enter_body()
    assert watch.manner.keeps


def test_what_a_thread_had_asked_before_counts() -> None:
    dog = Dog()
    watch = mute(dog, others=0, before=OTHERS)
    assert patience(dog, watch) is None
    watch.since(dog.time - 1.0, 0)
    assert patience(dog, watch) == HASTE_MUTE - 1.0
    watch.enter_body()
    watch.since(dog.time - 1.0, 0)
    assert watch.ended == OTHERS, "others ended before its body began"


def test_how_long_answers_take_is_remembered() -> None:
    dog = Dog()
    watch = mute(dog, usual=0.0)
    dog.time += 3.0
    watch.enter_body()
    assert watch.manner.waited == 3.0


class OneByOne(HTTPServer):
    """Deals with one connection until its end, and has a short queue of others."""

    request_queue_size = 5


class Answers(BaseHTTPRequestHandler):
    """Small files; a connection is kept."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with the path."""
        body = self.path.encode() * 10
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_server_that_deals_with_one_connection_at_a_time_gives_all(tmp_path, monkeypatch) -> None:
    """Fifteen of sixteen connections wait for the end of the first, and nobody tells them."""
    monkeypatch.setattr("framefetch.sources.watchdog.HASTE_MUTE", 0.2)
    options = Options(retry=RetryPolicy(base=0.001, cap=0.001), timeouts=Timeouts(stall=3600))
    with OneByOne(("127.0.0.1", 0), Answers) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            table = pd.DataFrame({"url": [f"http://127.0.0.1:{server.server_port}/{at}.bin" for at in range(200)]})
            with MetadataCache(table, tmp_path, options=options) as cache:
                frame = cache.mirror(table).frame
        finally:
            server.shutdown()
            serving.join()
    assert (frame["status"] == "downloaded").all()
    assert [(tmp_path / path).read_bytes() for path in frame["path"]] == [
        f"/{at}.bin".encode() * 10 for at in range(200)
    ]


def test_a_body_left_behind_is_gone_on_with_although_its_attempts_are_few(warehouse, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("framefetch.sources.watchdog.HASTE", 0.2)
    contents = {f"/{at}.nwb": hdf5_file(1 << 21, seed=at) for at in range(40)}
    table = pd.DataFrame({"url": [warehouse.add(name, body) for name, body in contents.items()]})
    warehouse.script("/0.nwb", Serve(stop=Stop(1 << 20, "hang")), Serve())
    options = Options(
        limits=Limits(per_host=4), retry=RetryPolicy(attempts=1, base=0.001), timeouts=Timeouts(stall=3600)
    )
    with MetadataCache(table, tmp_path, options=options) as cache:
        frame = cache.mirror(table).frame
        assert (frame["status"] == "downloaded").all()
        assert cache.verify("hash") == []
    asked = warehouse.requests("/0.nwb")
    assert len(asked) == 2
    assert asked[1].header("Range") is not None, "what had come was kept"
    assert len(warehouse.requests()) == 41
    assert frame["attempts"][0] == 2


def test_the_last_body_of_a_run_is_asked_for_again_soon(warehouse, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("framefetch.sources.watchdog.HASTE", 0.2)
    names = [f"/{at}.nwb" for at in range(2 * OTHERS)]
    table = pd.DataFrame({"url": [warehouse.add(name, hdf5_file(1 << 16, seed=1)) for name in names]})
    warehouse.script(names[-1], Serve(stop=Stop(1 << 15, "hang")), Serve())
    options = Options(
        limits=Limits(per_host=1), retry=RetryPolicy(attempts=1, base=0.001), timeouts=Timeouts(stall=3600)
    )
    with MetadataCache(table, tmp_path, options=options) as cache:
        assert (cache.mirror(table).frame["status"] == "downloaded").all()
    assert len(warehouse.requests(names[-1])) == 2
    assert len(warehouse.requests()) == len(names) + 1
