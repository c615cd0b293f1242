"""A part that digests what is written to it, where several threads are at it."""

import hashlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from framefetch.store.digesting import DigestingFile

MIB = 1 << 20


@pytest.mark.parametrize("way", ["at one go", "call by call"])
@pytest.mark.parametrize("algorithms", [("md5",), ("md5", "sha256")])
def test_a_proof_is_of_whole_bytes_while_others_write(
    way: str, algorithms: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if way == "call by call":
        request.getfixturevalue("plainly")
    content = random.Random(1).randbytes(24 * MIB)
    ends, begun, over = [], threading.Event(), threading.Event()

    def prove(file: DigestingFile) -> None:
        while not over.is_set():
            ends.append(file.proof())
            begun.set()

    with DigestingFile(str(tmp_path / "part"), algorithms) as file, ThreadPoolExecutor(3) as pool:
        proving = pool.submit(prove, file)
        try:
            assert begun.wait(20)
            file.write(content[:MIB])
            blocks = list(range(1, 24))
            random.Random(2).shuffle(blocks)
            list(pool.map(lambda at: file.write_at(at * MIB, content[at * MIB : (at + 1) * MIB]), blocks))
        finally:
            over.set()
        proving.result()
        file.catch_up()
        ends.append(file.proof())
        assert [digest.hex for digest in file.hasher.digests()] == [
            hashlib.new(name, content).hexdigest() for name in algorithms
        ]
    assert {length for length, _ in ends} >= {0, len(content)}
    for length, digits in set(ends):
        assert hashlib.md5(content[:length]).hexdigest() == digits
    assert (tmp_path / "part").read_bytes() == content
