"""No more connections than this process may have open files for."""

import os
import resource
import subprocess
import sys

import pytest

from framefetch import Limits
from framefetch.engine import descriptors
from framefetch.engine.descriptors import fitted, free_descriptors, raise_limit


@pytest.mark.parametrize(
    ("free", "connections", "files", "left", "told"),
    [
        (None, 256, 1000, 256, False),  # a system that does not say
        (1000, 256, 1000, 256, False),
        (76, 256, 1000, 20, True),
        (76, 256, 20, 256, False),  # no more than twenty are made
        (76, 8, 1000, 8, False),
        (3, 256, 1000, 1, True),
    ],
)
def test_limits_fit(monkeypatch, free, connections, files, left, told) -> None:
    monkeypatch.setattr(descriptors, "free_descriptors", lambda: free)
    limits, note = fitted(Limits(connections=connections), files)
    assert (limits.connections, bool(note)) == (left, told)
    assert limits.per_host <= max(left, 256 if not told else left)


def test_what_is_open_is_counted() -> None:
    before = free_descriptors()
    handles = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    try:
        assert free_descriptors() == before - 5
    finally:
        for handle in handles:
            os.close(handle)


@pytest.mark.parametrize(
    ("before", "after"),
    [((256, 4096), 832), ((256, 400), 400), ((256, resource.RLIM_INFINITY), 832), ((1024, 4096), None)],
)
def test_the_limit_is_raised_as_far_as_needed_and_allowed(monkeypatch, before, after) -> None:
    said = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: before)
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: said.append(limits))
    raise_limit(Limits())
    assert said == ([] if after is None else [(after, before[1])])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how large its table is")
def test_room_for_all_descriptors_is_made_at_once() -> None:
    code = (
        "from framefetch import Limits\n"
        "from framefetch.engine.descriptors import free_descriptors, raise_limit\n"
        "def room(): return int(open('/proc/self/status').read().partition('FDSize:')[2].split()[0])\n"
        "raise_limit(Limits()); free = free_descriptors(); print(room(), free)\n"
        "raise_limit(Limits()); print(room(), free_descriptors() - free)"
    )
    first, second = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    size, free = map(int, first.split())
    assert size >= min(832, free)
    assert second == f"{size} 0"  # nothing is left open
