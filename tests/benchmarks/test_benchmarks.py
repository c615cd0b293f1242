"""The benchmark measures what it says: every workload at a tiny scale, each server, the verdicts, what is written."""

import hashlib
import http.client
import json
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.defaults import run_defaults
from benchmarks.disk import CALL_US, CLOSE_US, far_disk, missing_for_far_disk
from benchmarks.files import FileSet, make_files, names_and_sizes
from benchmarks.growth import growth_of, run_commit
from benchmarks.judge import judged, net_cpu, ratio
from benchmarks.peers import PEERS
from benchmarks.publish import BEGIN, END, publish
from benchmarks.rates import TARGETS, rates_of, run_rates
from benchmarks.report_probes import show_probe
from benchmarks.restart import run_restart
from benchmarks.server import DISTANCE_SECONDS, LATE_SECONDS, PACE_BYTES, Server, missing_for, serve
from benchmarks.session import OtherManner, earlier_results
from benchmarks.sweep import load_settings, save_settings, sweep, to_sweep
from benchmarks.transfers import Manner, known_peer, run_transfer
from benchmarks.workloads import DISTANT, FAULTY, LATE, MIB, PACED, PROBES, WORKLOADS, Workload
from tests.conftest import needed

pytestmark = pytest.mark.nginx
TINY = {0: (4, 0), 1024 * MIB: (2, 2 * MIB), 512 * MIB: (2, 2 * MIB), 8 * MIB: (3, MIB)}
CURL = {"curl": {"connections": 4, "immediate": 1}}
HONEST = [work for work in WORKLOADS if not work.alone]


def tiny(work: Workload) -> Workload:
    count, size = TINY.get(work.size, (12, 8192))
    return replace(work, count=count, size=size)


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Server, FileSet]]:
    """Serve a megabyte and some small files in the way that a test names."""
    needed(missing_for(request.param) is None, str(missing_for(request.param)))
    root, own = tmp_path / "served", tmp_path / "nginx"
    root.mkdir()
    own.mkdir()
    files = make_files(str(root), [("big.bin", 6 * MIB), *((f"{at}.bin", 2000) for at in range(5))])
    with serve(str(root), str(own), request.param) as server:
        yield server, files


@pytest.mark.parametrize("work", HONEST, ids=lambda work: work.name)
def test_every_workload_is_fetched_and_checked(work: Workload, tmp_path: Path) -> None:
    lacking = missing_for(work.serving, tls=work.tls) or (missing_for_far_disk() if work.far_disk else None)
    needed(lacking is None, str(lacking))
    needed(shutil.which("curl") is not None, "curl")
    work = tiny(work)
    result = run_transfer(
        work, [known_peer("framefetch"), known_peer("curl")], CURL, Manner(1, timeout=15), str(tmp_path)
    )
    assert result["left_out"] == {}
    assert [(run["peer"], run["failure"]) for run in result["runs"]] == [("framefetch", None), ("curl", None)]
    ours, theirs = (run["requests"] for run in result["runs"])
    assert theirs == work.count, "curl asks once for each, also where all is held"
    assert ours == 0 if work.warm else ours >= work.count
    assert ratio(result, "curl").median > 0
    assert os.listdir(tmp_path) == [], "nothing is left behind"


def test_a_killed_mirror_is_timed_until_the_next_one_fetches(tmp_path: Path) -> None:
    found = run_restart(200, 2, str(tmp_path))
    assert [run["failure"] for run in found["runs"]] == [None, None]
    assert all(run["first_file_seconds"] > 0 for run in found["runs"])


def test_rates_are_those_of_programs_that_fetched_everything(tmp_path: Path) -> None:
    found = run_rates(80, 1, str(tmp_path))
    assert [run["failure"] for run in found["runs"]] == [None] * len(found["runs"])
    assert {("small", "framefetch", 80), ("small", "prototype", 80), ("large", "framefetch", 1)} <= {
        (run["files"], run["peer"], run["count"]) for run in found["runs"]
    }
    assert all(0 < run["seconds"] < run["process_seconds"] for run in found["runs"])
    assert rates_of(found["runs"], "small", "prototype")[0] > 0
    assert os.listdir(tmp_path) == [], "nothing is left behind"


def test_native_peers_fetch_late_files_as_they_come(tmp_path: Path) -> None:
    lacking = missing_for(LATE)
    needed(lacking is None, str(lacking))
    there = [peer for peer in PEERS if not peer.missing()]
    needed(shutil.which("curl") is not None, "curl")
    probe = replace(next(probe for probe in PROBES if probe.name == "defaults"), count=20)
    found = run_defaults(probe, there, Manner(1, timeout=30), str(tmp_path))
    assert found["left_out"] == {}
    fetched = {run["peer"]: run["files"] for run in found["runs"] if run["failure"] is None}
    native = {peer.name: 20 if peer.name in ("framefetch", "curl") else 2 for peer in there if peer.kind == "native"}
    assert fetched == native
    shown = show_probe(found, judge=True).splitlines()
    assert [line.split()[0] for line in shown[2:-1]] == found["compared"]


@pytest.mark.parametrize("served", [LATE], indirect=True)
def test_the_late_server_waits_and_then_sends_all(served: tuple[Server, FileSet]) -> None:
    server, files = served
    started = time.perf_counter()
    with urllib.request.urlopen(f"{server.base}/{files.names[0]}") as answer:
        assert time.perf_counter() - started >= LATE_SECONDS
        assert hashlib.md5(answer.read()).hexdigest() == files.digests[0]


@pytest.mark.parametrize("served", [DISTANT], indirect=True)
def test_the_distant_server_is_far_away_for_all_that_is_said(served: tuple[Server, FileSet]) -> None:
    server, files = served
    before = server.counts()
    asking = http.client.HTTPConnection("127.0.0.1", server.port)
    for name, digest in zip(files.names[:2], files.digests, strict=False):
        started = time.perf_counter()
        asking.request("GET", f"/{name}")
        assert hashlib.md5(asking.getresponse().read()).hexdigest() == digest
        assert time.perf_counter() - started >= DISTANCE_SECONDS
    asking.close()
    took = server.counts() - before
    assert (took.connections, took.requests) == (1, 2)


@pytest.mark.parametrize("served", [PACED], indirect=True)
def test_the_paced_server_paces_every_connection(served: tuple[Server, FileSet]) -> None:
    server, files = served
    for _ in range(2):
        started = time.perf_counter()
        with urllib.request.urlopen(f"{server.base}/{files.names[0]}") as answer:
            assert len(answer.read()) == files.sizes[0]
        # What the sockets hold at either end may come at once.
        assert time.perf_counter() - started >= 0.5 * files.sizes[0] / PACE_BYTES


@pytest.mark.parametrize("served", [FAULTY], indirect=True)
def test_the_faulty_server_refuses_cuts_and_stalls_and_else_is_right(served: tuple[Server, FileSet]) -> None:
    server, files = served
    ends = {"right": 0, "refused": 0, "broken": 0}
    for at in range(500):
        name, size, digest = (part[1 + at % 5] for part in (files.names, files.sizes, files.digests))
        body = b""
        try:
            with urllib.request.urlopen(f"{server.base}/{name}", timeout=0.3) as answer:
                assert answer.headers["ETag"]
                while len(body) < size:
                    block = answer.read1(size)
                    if not block:
                        break
                    body += block
        except urllib.error.HTTPError as refused:
            ends["refused"] += refused.code == 503
            refused.close()
            continue
        except TimeoutError:
            pass
        whole = hashlib.md5(body).hexdigest() == digest
        assert whole or len(body) == size // 2
        ends["right" if whole else "broken"] += 1
    # 4 % of 500: that there are none, or more than a fifth, will not be seen in the life of the universe.
    assert sum(ends.values()) == 500
    assert ends["right"] > 400
    assert ends["refused"] + ends["broken"] > 0


def test_no_two_files_are_alike_and_the_mix_is_the_real_one(tmp_path: Path) -> None:
    wanted = names_and_sizes(20, 0)
    files = make_files(str(tmp_path), [*names_and_sizes(50, 100), *((name, min(size, 9000)) for name, size in wanted)])
    assert len(set(files.digests)) == len(files.digests) == 70
    whole = names_and_sizes(2_377, 0)
    assert len({name for name, _ in whole}) == 2_377
    assert max(size for _, size in whole) == 32 * MIB
    assert {name for name, _ in wanted} <= {name for name, _ in whole}


def test_a_sweep_keeps_the_best_setting_and_is_not_done_twice(tmp_path: Path) -> None:
    needed(shutil.which("curl") is not None, "curl")
    work, path = WORKLOADS[0], str(tmp_path / "settings.json")
    curl = replace(known_peer("curl"), grid=({"connections": 0, "immediate": -1, "splits": 1}, *CURL.values()))
    broken = replace(curl, name="broken", command=lambda order: ["false"])
    kept: dict[str, Any] = load_settings(path)
    assert to_sweep(work, [known_peer("framefetch"), curl], kept, anew=False) == [curl]
    sweep(work, [curl, broken], kept, str(tmp_path), quick=True)
    save_settings(path, kept)
    again = load_settings(path)
    assert again["best"][work.name]["curl"] in curl.grid
    assert "broken" not in again["best"][work.name]
    assert to_sweep(work, [curl], again, anew=False) == []
    assert to_sweep(work, [curl], again, anew=True) == [curl]


def test_a_peer_that_fails_or_hangs_is_reported_and_stops_nobody(tmp_path: Path) -> None:
    needed(shutil.which("curl") is not None, "curl")
    work = replace(WORKLOADS[0], count=2)
    hangs = replace(known_peer("curl"), name="hangs", command=lambda order: ["sleep", "60"])
    lies = replace(known_peer("curl"), name="lies", command=lambda order: ["true"])
    peers = [hangs, lies, known_peer("curl")]
    result = run_transfer(work, peers, {}, Manner(2, timeout=2), str(tmp_path))
    assert result["left_out"] == {"hangs": "did not end within 2 s", "lies": "2 of 2 files are missing"}
    assert [(run["peer"], run["failure"]) for run in result["runs"]] == [("curl", None)] * 2


def usage(wall: float, cpu: float = 1.0) -> dict[str, float]:
    return {"wall": wall, "cpu": cpu, "peak": MIB}


def results(name: str = "large") -> dict[str, Any]:
    """Return results as a session writes them, of two rounds in which framefetch takes 2 s."""
    work = next(work for work in WORKLOADS if work.name == name)
    walls = {"framefetch": (2.0, 2.0), "curl": (2.2, 2.4), "pooch": (6.0, 8.0)}
    runs = [
        {
            "peer": peer,
            "round": at,
            "files": 200,
            "bytes": 200 * MIB,
            "failure": None,
            "requests": 200,
            "connections": 8,
        }
        | {"alone": usage(wall / 2), "verified": usage(wall)}
        for peer, both in walls.items()
        for at, wall in enumerate(both)
    ]
    about = {peer: {"kind": known_peer(peer).kind, "md5_by": "md5sum", "setting": {}} for peer in walls}
    startup = {"framefetch": 0.5, "curl": 0.75}
    found = {"name": name, "letter": work.letter, "says": work.says, "files": 200, "bytes": 1, "targets": work.targets}
    return found | {"left_out": {}, "startup_cpu": startup, "peers": about, "runs": runs}


def test_verdicts_are_ratios_beside_their_targets() -> None:
    work = results()
    curl, pooch, cpu = judged(work)
    assert (curl.what, curl.must, curl.aim, curl.word) == ("curl", 1.1, 1.3, "met, aim missed")
    assert curl.measured == pytest.approx(1.15)
    assert (pooch.measured, pooch.must, pooch.word) == (pytest.approx(3.5), 3.5, "met")
    assert net_cpu(work, "framefetch") == 0.5
    assert (cpu.measured, cpu.word) == (pytest.approx(2.0), "MISSED")
    work["runs"] = [run for run in work["runs"] if run["peer"] != "framefetch"]
    assert [one.word for one in judged(work)] == ["no figure"] * 3


#: Of two rounds, in one of which the prototype did not run.
RATES = {
    "name": "rates",
    "rows": 10,
    "says": "files",
    "times_as_fast": [[*who, times] for who, times in TARGETS.items()],
    "runs": [
        {
            "files": "small",
            "peer": peer,
            "round": at,
            "count": 10,
            "failure": None,
            "seconds": took,
            "process_seconds": 9,
        }
        for peer, at, took in (
            ("framefetch", 0, 1.0),
            ("framefetch", 1, 2.0),
            ("parfive", 0, 8.0),
            ("parfive", 1, 20.0),
            ("prototype", 0, 45.0),
        )
    ],
}


def test_results_are_written_between_the_markers_only(tmp_path: Path) -> None:
    readme, plot = tmp_path / "README.md", tmp_path / "plot.svg"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    machine = {"cores": 2, "processor": "P", "memory_bytes": 1 << 30, "system": "L", "load_before": [0.1]}
    machine |= {"output_on": "tmpfs", "python": "3", "packages": {}, "programs": {}}
    found = {"machine": machine, "settings": {"rounds": 2, "quick": False}, "workloads": [results(), RATES]}
    for _ in range(2):
        publish(found, str(readme), str(plot))
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| curl + md5sum | 1.15 | 1.10-1.20 | 0.57 | 1.1 / 1.3 | met, aim missed |" in text
    assert "target: small: 8 times the rate of parfive: 9.0: met" in text
    assert "target: small: 50 times the rate of prototype: 45.0: MISSED" in text
    marks = ET.fromstring(plot.read_text()).iter("{http://www.w3.org/2000/svg}title")
    assert [mark.text for mark in marks][1:] == ["curl 1.15", "pooch 3.50"]
    kept = tmp_path / "results.json"
    kept.write_text(json.dumps(found))
    assert [work["name"] for work in earlier_results(found, str(kept))] == ["large", "rates"]
    assert earlier_results({**found, "machine": {**machine, "cores": 64}}, str(kept)) == []
    with pytest.raises(OtherManner, match="remove .*results.json to begin anew"):
        earlier_results({**found, "settings": {**found["settings"], "rounds": 99}}, str(kept))


def test_growth_is_the_worst_of_more_against_fewer(tmp_path: Path) -> None:
    costs = {10: 3.0, 100: 1.0, 1000: 1.5}
    runs = [{"way": "held", "rows": rows, "failure": None, "row_seconds": cost} for rows, cost in costs.items()]
    assert growth_of(runs, "held")[1] == 1.5
    found = run_commit(1_500, 1, str(tmp_path))["runs"]
    assert [(run["way"], run["rows"], run["failure"]) for run in found] == [
        (way, rows, None) for rows in (1_000, 1_500) for way in ("commit", "commit, mean")
    ]
    assert all(0 < growth_of(found, way)[1] < 100 for way in ("commit", "commit, mean"))


def test_every_peer_says_what_it_needs_and_has_settings_for_every_workload() -> None:
    for peer in PEERS:
        assert peer.programs or peer.packages
        for work in WORKLOADS:
            assert not peer.runs(work) or peer.settings(work), (peer.name, work.name)


def test_a_far_disk_keeps_what_it_is_given_takes_its_time_and_goes(tmp_path: Path) -> None:
    lacking = missing_for_far_disk()
    needed(lacking is None, str(lacking))
    with far_disk(str(tmp_path)) as disk:
        began = time.monotonic()
        with open(f"{disk}/one", "wb") as file:
            file.write(b"some bytes")
        took = time.monotonic() - began
        os.rename(f"{disk}/one", f"{disk}/other")
        assert os.listdir(disk) == ["other"]
        assert Path(disk, "other").read_bytes() == b"some bytes"
    assert took >= (4 * CALL_US + CLOSE_US) / 1e6, "looked for, made, written, and closed"
    assert os.listdir(disk) == []
    assert (tmp_path / "behind" / "other").read_bytes() == b"some bytes"


def test_the_server_is_gone_when_its_block_ends(tmp_path: Path) -> None:
    needed(missing_for() is None, "nginx")
    with serve(str(tmp_path), str(tmp_path)) as server:
        assert server.counts().requests >= 1
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port), 1):
        pass
