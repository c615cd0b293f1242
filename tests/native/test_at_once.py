"""What is done at one go: the module in C and the one in Python do the same, byte for byte and error for error."""

import contextlib
import errno
import hashlib
import importlib.util
import os
import random
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch.errors import ProtocolError
from framefetch.native import calls, plain
from framefetch.native.at_once import at_once
from framefetch.sources.answers import plain_length
from framefetch.sources.wire import HEAD_BYTES, parse_head, split_head
from tests.conftest import needed

#: Where the module in C must be: what CI runs on, and what is measured.
IS_HOME = sys.platform == "linux" and os.uname().machine == "x86_64" and "avx2" in Path("/proc/cpuinfo").read_text()
MODULES = [plain] if at_once is plain else [plain, at_once]
MIB = 1 << 20


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def test_it_was_built_where_it_can_be() -> None:
    if at_once is plain and not (IS_HOME and os.environ.get("CI") == "true"):
        pytest.skip("no compiler was there when framefetch was installed, or another kind of machine")
    assert at_once.__name__ == "framefetch.native._native"


@pytest.fixture(params=MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def module(request: pytest.FixtureRequest) -> ModuleType:
    """Return each of the two modules."""
    return request.param


# -- MD5 -------------------------------------------------------------------------------------------------------------


@given(blocks=st.lists(st.binary(max_size=300), max_size=12))
def test_blocks_of_any_length_digest_as_the_whole_does(blocks: list[bytes]) -> None:
    for module in MODULES:
        digest, begun = module.Md5(), []
        for block in blocks:
            begun.append((digest.copy(), digest.hexdigest()))
            digest.update(memoryview(block))
        assert digest.hexdigest() == md5(b"".join(blocks))
        assert [copy.hexdigest() for copy, _ in begun] == [then for _, then in begun], "a copy stays as it was"


@pytest.mark.parametrize("about", [0, 55, 56, 63, 64, 119, 2047, 2048, 16_384, 16_447, MIB])
def test_lengths_at_which_something_changes(module: ModuleType, about: int) -> None:
    content = random.Random(about).randbytes(about + 2)
    for size in range(max(0, about - 1), about + 3):
        for head in (0, 1, 63, 64):
            digest = module.Md5()
            digest.update(content[:head])
            digest.update(content[head:size])
            assert digest.hexdigest() == md5(content[:size] if size > head else content[:head])


@given(sizes=st.lists(st.one_of(st.integers(0, 200), st.integers(0, 40_000)), max_size=40), seed=st.integers(0, 9))
def test_many_bodies_at_once_are_each_digested_as_alone(sizes: list[int], seed: int) -> None:
    bodies = [random.Random(seed + at).randbytes(size) for at, size in enumerate(sizes)]
    for module in MODULES:
        assert module.md5_all(bodies) == [md5(body) for body in bodies]


def test_the_kernel_for_processors_without_avx512_digests_the_same(tmp_path: Path) -> None:
    needed(shutil.which("gcc") is not None and IS_HOME, "gcc, and a processor with AVX2")
    folder, built = Path(plain.__file__).parent, tmp_path / "_native.abi3.so"
    sources = sorted(folder.glob("*.c"))
    headers = sysconfig.get_path("include")
    words = ["gcc", "-O2", "-shared", "-fPIC", "-DMD5_AVX512=0", f"-I{headers}", *sources, "-o", built]
    subprocess.run(words, check=True)
    spec = importlib.util.spec_from_file_location("framefetch.native._native", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    draw = random.Random(1)
    bodies = [draw.randbytes(draw.choice([0, 55, 64, 1000, 8192, 70_000])) for _ in range(200)]
    assert module.md5_all(bodies) == [md5(body) for body in bodies]


@pytest.mark.parametrize("threads", [1, 2, 7, 8, 9, 20])
def test_threads_that_digest_at_the_same_time_do_not_mix(module: ModuleType, threads: int) -> None:
    contents = [random.Random(at).randbytes(MIB + 1000 * at) for at in range(threads)]
    found: dict[int, list[str]] = {}
    barrier = threading.Barrier(threads)

    def work(at: int) -> None:
        barrier.wait()
        draw = random.Random(at)
        for _ in range(4):
            digest, start, view = module.Md5(), 0, memoryview(contents[at])
            while start < len(view):
                size = draw.choice([1, 100, 5000, 70_000, MIB])
                digest.update(view[start : start + size])
                start += size
            found.setdefault(at, []).append(digest.hexdigest())

    running = [threading.Thread(target=work, args=(at,)) for at in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert found == {at: [md5(content)] * 4 for at, content in enumerate(contents)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on Windows")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_digests_whatever_its_parent_was_at(module: ModuleType) -> None:
    content, others = random.Random(1).randbytes(MIB), threading.Event()
    digest = module.Md5()
    digest.update(content)

    def go_on() -> None:
        while not others.is_set():
            module.Md5().update(content)

    running = [threading.Thread(target=go_on) for _ in range(3)]
    for thread in running:
        thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if not child:  # nothing else of the test may run in it
                again = module.Md5()
                again.update(content)
                digest.update(content)
                right = again.hexdigest() == md5(content) and digest.hexdigest() == md5(content * 2)
                os._exit(0 if right else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        others.set()
        for thread in running:
            thread.join()
    assert digest.hexdigest() == md5(content)


def test_what_is_no_bytes_is_refused(module: ModuleType) -> None:
    digest = module.Md5()
    digest.update(b"abc")
    for wrong in ("text", None, 3):
        with pytest.raises(TypeError):
            digest.update(wrong)
        with pytest.raises(TypeError):
            module.md5_all([b"", wrong])
    assert digest.hexdigest() == md5(b"abc")


@pytest.mark.parametrize("size", [0, 10, 5000, MIB])
def test_what_is_written_is_digested_and_what_is_not_is_not(module: ModuleType, tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    digest = module.Md5()
    with open(tmp_path / "f", "w+b", buffering=0) as file, open("/dev/full", "wb", buffering=0) as full:
        assert digest.write(file.fileno(), b"abc") == 0
        assert digest.write(full.fileno(), content) == (errno.ENOSPC if size else 0)
        assert digest.hexdigest() == md5(b"abc")
        assert digest.write(file.fileno(), memoryview(content)) == 0
    assert digest.hexdigest() == md5(b"abc" + content)
    assert (tmp_path / "f").read_bytes() == b"abc" + content


@pytest.mark.parametrize("room", [260, 1000, 4096, MIB])
def test_a_file_is_read_from_anywhere_as_far_as_it_goes(module: ModuleType, tmp_path: Path, room: int) -> None:
    content = random.Random(room).randbytes(100_000)
    (tmp_path / "f").write_bytes(content)
    digest = module.Md5()
    with open(tmp_path / "f", "rb", buffering=0) as file:
        assert digest.read(file.fileno(), 10, bytearray(room), 50_000) == (50_000, 0)
        assert digest.hexdigest() == md5(content[10:50_010])
        assert digest.read(file.fileno(), 50_010, bytearray(room), MIB) == (49_990, 0)
        assert digest.read(file.fileno(), 100_000, bytearray(room), MIB) == (0, 0)
        assert file.tell() == 0, "its own place stays"
    assert digest.hexdigest() == md5(content[10:])
    with open(tmp_path / "f", "wb", buffering=0) as file:
        assert digest.read(file.fileno(), 0, bytearray(room), MIB) == (0, errno.EBADF)


# -- from a socket into a file ---------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two ends of a connection; the first does not block."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def poured(module: ModuleType, source: Any, target: int, **wish: float) -> tuple[tuple[int, bool, int, int], str]:
    digest = module.Md5()
    result = digest.pour(source, target, bytearray(int(wish.get("room", 4096))), int(wish.get("most", MIB)), 60.0)
    return result, digest.hexdigest()


@pytest.mark.parametrize("room", [260, 1000, 4096, MIB])
def test_what_is_there_is_written_and_digested(module: ModuleType, pair, tmp_path: Path, room: int) -> None:
    ours, theirs = pair
    content = random.Random(room).randbytes(20_000)
    theirs.sendall(content)
    with open(tmp_path / "f", "w+b", buffering=0) as file:
        file.write(b"before")
        assert poured(module, ours.fileno(), file.fileno(), room=room) == ((20_000, True, 0, 0), md5(content))
        assert poured(module, ours.fileno(), file.fileno()) == ((0, True, 0, 0), md5(b"")), "nothing is waited for"
    assert (tmp_path / "f").read_bytes() == b"before" + content


def test_no_more_than_that_is_read(module: ModuleType, pair, tmp_path: Path) -> None:
    ours, theirs = pair
    theirs.sendall(b"a" * 5000 + b"the next answer")
    with open(tmp_path / "f", "wb", buffering=0) as file:
        assert poured(module, ours.fileno(), file.fileno(), most=5000) == ((5000, False, 0, 0), md5(b"a" * 5000))
        assert poured(module, ours.fileno(), file.fileno(), most=0) == ((0, False, 0, 0), md5(b""))
    assert ours.recv(100) == b"the next answer"


def test_when_time_is_up_it_stops_behind_what_it_has(module: ModuleType, pair, tmp_path: Path) -> None:
    ours, theirs = pair
    theirs.sendall(b"a" * 5000)
    digest = module.Md5()
    with open(tmp_path / "f", "wb", buffering=0) as file:
        count, is_dry, *errors = digest.pour(ours.fileno(), file.fileno(), bytearray(1000), 5000, 0.0)
    assert 0 < count < 5000
    assert not is_dry
    assert errors == [0, 0]
    assert (tmp_path / "f").read_bytes() == b"a" * count
    assert digest.hexdigest() == md5(b"a" * count)


def test_an_end_is_told_as_nothing_there_and_a_broken_connection_by_its_number(
    module: ModuleType, pair, tmp_path
) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    theirs.close()
    with open(tmp_path / "f", "wb", buffering=0) as file:
        assert poured(module, ours.fileno(), file.fileno()) == ((3, True, 0, 0), md5(b"abc"))
        number = ours.fileno()
        ours.close()
        assert poured(module, number, file.fileno()) == ((0, True, errno.EBADF, 0), md5(b""))


def giver(content: bytes, most: int) -> Callable[[memoryview], int]:
    """Return what puts a content into room, at most so many bytes at a time."""
    left = memoryview(content)

    def give(room: memoryview) -> int:
        nonlocal left
        count = min(len(room), len(left), most)
        room[:count] = left[:count]
        left = left[count:]
        return count

    return give


@pytest.mark.parametrize("room", [260, 1000, 4096, 2 * MIB])
def test_what_a_function_gives_is_written_and_digested(module: ModuleType, tmp_path: Path, room: int) -> None:
    content = random.Random(room).randbytes(min(50_000 * room, 3 * MIB))
    with open(tmp_path / "f", "w+b", buffering=0) as file:
        file.write(b"before")
        wish = {"room": room, "most": len(content) + 1}
        result, digest = poured(module, giver(content, 40_000), file.fileno(), **wish)
    assert result == (len(content), True, 0, 0)
    assert digest == md5(content)
    assert (tmp_path / "f").read_bytes() == b"before" + content


@pytest.mark.parametrize(
    ("said", "error"), [(OSError(errno.EIO, "broken"), OSError), (-1, ValueError), (3000, ValueError), ("1", TypeError)]
)
def test_a_function_that_fails_has_given_nothing(module: ModuleType, tmp_path: Path, said: Any, error: type) -> None:
    digest, give = module.Md5(), giver(b"a" * 5000, 1000)
    digest.update(b"before")

    def fails_later(room: memoryview) -> int:
        count = give(room)
        if count:
            return count
        if isinstance(said, OSError):
            raise said
        return said

    with open(tmp_path / "f", "wb", buffering=0) as file, pytest.raises(error):
        digest.pour(fails_later, file.fileno(), bytearray(4000), MIB, 60.0)
    assert digest.hexdigest() == md5(b"before")
    digest.update(b"behind")
    assert digest.hexdigest() == md5(b"beforebehind")


def test_what_a_function_keeps_of_its_room_stays_good(module: ModuleType, tmp_path: Path) -> None:
    """As the frames of an exception do."""
    kept: list[memoryview] = []

    def fails(room: memoryview) -> int:
        kept.append(room[2:])
        raise OSError(errno.EIO, "broken")

    with open(tmp_path / "f", "wb", buffering=0) as file, pytest.raises(OSError, match="broken"):
        module.Md5().pour(fails, file.fileno(), bytearray(MIB), MIB, 60.0)
    assert isinstance(kept[0].obj, bytearray), "which is alive as long as this is"
    kept[0][:] = bytes(len(kept[0]))


@pytest.mark.parametrize("threads", [2, 5, 8, 12])
def test_those_that_pour_together_do_not_mix(module: ModuleType, tmp_path: Path, threads: int) -> None:
    contents = [random.Random(at).randbytes(5 * MIB + 1001 * at) for at in range(threads)]
    found: dict[int, tuple[object, str]] = {}

    def work(at: int) -> None:
        with open(tmp_path / str(at), "wb", buffering=0) as file:
            give = giver(contents[at], random.Random(at).choice([17_003, 70_001, MIB]))
            found[at] = poured(module, give, file.fileno(), room=MIB, most=10 * MIB)

    running = [threading.Thread(target=work, args=(at,)) for at in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert found == {at: ((len(one), True, 0, 0), md5(one)) for at, one in enumerate(contents)}
    assert [(tmp_path / str(at)).read_bytes() for at in range(threads)] == contents


def test_nobody_waits_for_those_that_bring_nothing(module: ModuleType, tmp_path: Path) -> None:
    """As long as what they have is still being written."""
    content, asked = random.Random(1).randbytes(3 * MIB), threading.Semaphore(0)

    def give_one(room: memoryview) -> int:
        asked.release()
        room[:1] = b"a"
        return 1

    reading, full = os.pipe()
    os.set_blocking(full, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(full, bytes(MIB))
    os.set_blocking(full, True)
    idle = [threading.Thread(target=poured, args=(module, give_one, full)) for _ in range(3)]
    try:
        for thread in idle:
            thread.start()
        for _ in idle:
            assert asked.acquire(timeout=60)
        with open(tmp_path / "f", "wb", buffering=0) as file:
            result = poured(module, giver(content, MIB), file.fileno(), room=MIB, most=10 * MIB)
        assert all(thread.is_alive() for thread in idle)
    finally:
        os.close(reading)  # ends them with EPIPE
        for thread in idle:
            thread.join()
        os.close(full)
    assert result == ((3 * MIB, True, 0, 0), md5(content))


def test_functions_have_turns(module: ModuleType, tmp_path: Path) -> None:
    guard, entered = threading.Lock(), 0

    def give(room: memoryview) -> int:
        nonlocal entered
        with guard:
            entered += 1
            alone = entered == 1
        os.stat(tmp_path)  # lets the interpreter's lock go
        with guard:
            entered -= 1
        if not alone:
            raise AssertionError("two at once")
        room[:1] = b"a"
        return 1

    def go(at: int) -> None:
        if at % 2:
            told.append(sum(module.in_turn(give, memoryview(bytearray(1))) for _ in range(2000)))
        else:
            with open(tmp_path / str(at), "wb", buffering=0) as file:
                told.append(poured(module, give, file.fileno(), most=2000)[0][0])

    told: list[int] = []
    running = [threading.Thread(target=go, args=(at,)) for at in range(6)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert told == [2000] * 6


def test_who_fails_in_its_turn_gives_it_back(module: ModuleType) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            module.in_turn(lambda number: 1 // number, 0)
    assert module.in_turn(lambda number: 1 // number, 1) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on Windows")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_has_its_turn_though_a_thread_of_its_parent_had_it(module: ModuleType) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(_: None) -> bool:
        begun.set()
        return go_on.wait(60)

    other = threading.Thread(target=module.in_turn, args=(wait, None))
    other.start()
    assert begun.wait(60)
    try:
        child = os.fork()
        if not child:  # nothing else of the test may run in it
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)  # instead of waiting for ever
            os._exit(module.in_turn(int, "3"))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    finally:
        go_on.set()
        other.join()


def test_what_cannot_be_written_is_not_digested(module: ModuleType, pair, tmp_path: Path) -> None:
    ours, theirs = pair
    (tmp_path / "f").write_bytes(b"")
    theirs.sendall(b"abc")
    with open(tmp_path / "f", "rb", buffering=0) as file:
        assert poured(module, ours.fileno(), file.fileno()) == ((0, False, 0, errno.EBADF), md5(b""))


def test_a_full_disk_is_told_by_its_number(module: ModuleType, pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    with open("/dev/full", "wb", buffering=0) as full:
        assert poured(module, ours.fileno(), full.fileno()) == ((0, False, 0, errno.ENOSPC), md5(b""))


# -- many sockets ----------------------------------------------------------------------------------------------------


def test_those_that_are_silent_are_asked_and_the_others_are_told_of(module: ModuleType) -> None:
    pairs = [socket.socketpair() for _ in range(4)]
    for ours, _ in pairs:
        ours.setblocking(False)
    pairs[1][1].sendall(b"not asked for")
    pairs[2][1].close()
    long = bytes(8 << 20)
    told = module.ask_all([ours.fileno() for ours, _ in pairs], [b"first", b"second", b"third", long])
    assert told[:3] == [5, -1, -1]
    assert 0 < told[3] < len(long)
    assert pairs[0][1].recv(100) == b"first"
    pairs[1][1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pairs[1][1].recv(100)
    for pair in pairs:
        for end in pair:
            end.close()
    assert module.ask_all([], []) == []


def test_what_has_come_is_heard_as_far_as_there_is_room(module: ModuleType) -> None:
    pairs = [socket.socketpair() for _ in range(4)]
    with select.epoll() as poll:
        for ours, _ in pairs:
            ours.setblocking(False)
            poll.register(ours, select.EPOLLIN)
        names = {ours.fileno(): at for at, (ours, _) in enumerate(pairs)}

        def heard(seconds: float, room: int) -> list[tuple[int, bytes | int]]:
            return [(names[number], data) for number, data in module.hear_any(poll, seconds, bytearray(room))]

        assert heard(0.0, 100) == []
        pairs[1][1].sendall(b"one")
        assert heard(-1.0, 100) == [(1, b"one")]
        pairs[2][1].sendall(b"a" * 70)
        pairs[3][1].sendall(b"b" * 70)
        pairs[0][1].close()
        first = heard(20.0, 100)
        both = dict(first)
        for _ in range(5):
            for at, data in heard(0.0, 100):
                both[at] = both.get(at, b"") + data
        assert sum(len(data) for _, data in first) <= 100
        assert both == {0: b"", 2: b"a" * 70, 3: b"b" * 70}, "an end is heard as nothing"
        assert poll.poll(0) == [(pairs[0][0].fileno(), select.EPOLLIN | select.EPOLLHUP)], "the poll is still open"
    for pair in pairs:
        for end in pair:
            end.close()


def test_a_broken_connection_is_heard_as_the_number_of_its_error(module: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()  # a reset
        ours.setblocking(False)
        with select.epoll() as poll:
            poll.register(ours, select.EPOLLIN)
            assert module.hear_any(poll, 20.0, bytearray(10)) == [(ours.fileno(), errno.ECONNRESET)]


FIELDS = [
    b'ETag: "a"',
    b'etag:W/"b" \t',
    b"Content-Length: 5",
    b"content-length:  5\t",
    b"Content-Length: 05",
    b"Content-Length: +5",
    b"Content-Length:",
    b"Content-Length: 0000000000000000005",
    b"Connection: Keep-Alive",
    b"Connection: close",
    b"Transfer-Encoding: chunked",
    b"Content-Encoding: gzip",
    b"Set-Cookie: a=b",
    b"Date: Thu, 26 Nov 2026 20:00:00 GMT",
    b"X-Long: " + b"x" * 8182,
    b"X-Longer: " + b"x" * 8190,
    b"x" * 256 + b": name",
    b"x" * 257 + b": name",
    b"X-\xfc: latin",
    b"X: \xfc\xff\x80",
    b"X : blank before the colon",
    b" folded",
    b"no colon",
    b": no name",
    b"X: a\x00b",
    b"X: a\rb",
    b"X: a\nContent-Length: 5",
    b"X: a\x7fb",
    b"X:\ta\tb",
]
STARTS = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 OK", b"HTTP/1.1 206 Partial Content",
    b"HTTP/1.1 2000", b"HTTP/1.1 200OK", b"http/1.1 200 OK", b"HTTP/1.1 200 \x00", b"HTTP/1.1  200 OK", b"",
]  # fmt: skip


def by_the_rules(data: bytes) -> tuple[bytes, str | None] | None:
    """Return what the rules in Python make of bytes that came in answer to a request."""
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    try:
        parsed = parse_head(head)
        length = plain_length(parsed)
    except ProtocolError:
        return None
    return (body, parsed.get("etag")) if length == len(body) else None


@pytest.mark.parametrize("module", MODULES[1:])
@given(
    start=st.one_of(st.just(STARTS[0]), st.sampled_from(STARTS)),
    fields=st.lists(st.one_of(st.sampled_from(FIELDS), st.binary(max_size=12)), max_size=5),
    has_length=st.booleans(),
    body=st.sampled_from([b"12345", b"1234", b"123456", b"", b"\r\n\r\n1"]),
)
def test_an_answer_is_plain_only_where_the_rules_in_python_say_so(module, start, fields, has_length, body) -> None:
    lines = [start, *fields, *([b"Content-Length: 5"] if has_length else [])]
    data = b"\r\n".join([*lines, b"", body])
    found = module.plain_answer(data)
    assert found in (None, by_the_rules(data))
    for cut in {0, len(data) // 2, len(data) - 1}:
        assert module.plain_answer(data[:cut]) in (None, by_the_rules(data[:cut]))


@pytest.mark.parametrize("module", MODULES[1:])
@pytest.mark.parametrize(
    "field",
    [
        "CONTENT-ENCODING: gzip",
        "CONTENT-RANGE: bytes 0-0/9",
        "TRANSFER-ENCODING: identity",
        "SET-COOKIE: a",
        "CONNECTION: x",
    ],
)
def test_names_in_capitals_are_the_same_names(module: ModuleType, field: str) -> None:
    assert module.plain_answer(f"HTTP/1.1 200 OK\r\n{field}\r\nCONTENT-LENGTH: 1\r\n\r\nx".encode()) is None
    assert module.plain_answer(b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH: 1\r\nCONNECTION: KEEP-ALIVE\r\n\r\nx") == (
        b"x",
        None,
    )


@pytest.mark.parametrize("module", MODULES[1:])
def test_usual_answers_are_plain(module: ModuleType) -> None:
    usual = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nConnection: keep-alive\r\n"
    tagged = usual + b'ETag: "6a-5"\r\nAccept-Ranges: bytes\r\nContent-Length: 5\r\n\r\n12345'
    assert module.plain_answer(tagged) == (b"12345", '"6a-5"')
    assert module.plain_answer(usual + b"Content-Length: 0\r\n\r\n") == (b"", None)
    assert module.plain_answer(b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx") == (b"x", None)
    for field in FIELDS:
        data = b"\r\n".join([b"HTTP/1.1 200 OK", field, b"Content-Length: 5", b"", b"12345"])
        if b"\t" not in field[:4] and by_the_rules(data) is not None:
            assert module.plain_answer(data) == by_the_rules(data), field


@pytest.mark.parametrize("module", MODULES[1:])
@pytest.mark.parametrize("size", [HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1])
def test_a_head_is_as_long_as_the_other_reader_takes(module: ModuleType, size: int) -> None:
    field = b"X: " + b"x" * 995 + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n" + field * 65
    data = head + b"Y: " + b"y" * (size - len(head) - 3) + b"\r\n\r\nz"
    try:
        split_head(data)
    except ProtocolError:
        assert module.plain_answer(data) is None
    else:
        assert module.plain_answer(data) == (b"z", None)


# -- many files ------------------------------------------------------------------------------------------------------


def as_told(path: Path) -> calls.Stat:
    return calls.stat_of(os.lstat(path))


def test_new_files_are_written_and_told_of(module: ModuleType, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "ü", "empty")]
    bodies = [b"abc", random.Random(1).randbytes(300_000), b""]
    told = module.write_new([str(path) for path in paths], bodies)
    assert [path.read_bytes() for path in paths] == bodies
    assert told == [as_told(path) for path in paths]
    assert all(stat.S_ISREG(mode) for mode, *_ in told)
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE(mode) for mode, *_ in told} == {0o666 & ~umask}


@pytest.mark.parametrize("seconds", [-20_000_000_000, -(1 << 31), 9_223_372_036, 9_223_372_037, 15_000_000_000])
def test_a_time_that_64_bits_cannot_hold_is_the_nearest(module: ModuleType, tmp_path: Path, seconds: int) -> None:
    part, target = tmp_path / "part", tmp_path / "target"
    part.write_bytes(b"abc")
    os.utime(part, ns=(0, seconds * 10**9 + 854_775_807))
    ((_, _, mtime_ns, ctime_ns, _),) = module.move_new([str(part)], [str(target)])
    kept = target.stat()
    assert mtime_ns == max(-(1 << 63), min(kept.st_mtime_ns, (1 << 63) - 1))
    assert ctime_ns == kept.st_ctime_ns


def test_what_is_there_is_not_written_over_and_the_others_are_written(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"theirs")
    (tmp_path / "link").symlink_to("target")
    paths = [tmp_path / name for name in ("there", "link", "none/a", "new")]
    told = module.write_new([str(path) for path in paths], [b"ours"] * 4)
    assert told == [errno.EEXIST, errno.EEXIST, errno.ENOENT, as_told(tmp_path / "new")]
    assert (tmp_path / "there").read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path)) == ["link", "new", "there"]


def test_files_are_moved_to_names_that_are_free(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "there").write_bytes(b"theirs")
    (tmp_path / "link").symlink_to("nowhere")
    names = ["new", "there", "link", "folder", "none/a"]
    for name in "abcde":
        (tmp_path / "parts" / name).write_bytes(name.encode())
    parts = [*(str(tmp_path / "parts" / name) for name in "abcde"), str(tmp_path / "parts" / "gone")]
    told = module.move_new(parts, [str(tmp_path / name) for name in [*names, "other"]])
    assert told == [as_told(tmp_path / "new"), errno.EEXIST, errno.EEXIST, errno.EEXIST, errno.ENOENT, errno.ENOENT]
    assert (tmp_path / "new").read_bytes() == b"a"
    assert (tmp_path / "there").read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path / "parts")) == ["b", "c", "d", "e"]
    assert os.readlink(tmp_path / "link") == "nowhere"


def most_threads(function: Callable[[], object]) -> int:
    """Return how many threads there were at most, besides those before, while a function was called."""
    seen, before = [0], len(os.listdir("/proc/self/task"))
    calling = threading.Thread(target=function)
    calling.start()
    while calling.is_alive():
        seen.append(len(os.listdir("/proc/self/task")) - before)
    calling.join()
    return max(seen)


@pytest.mark.parametrize(("patience", "help_comes"), [(0.0, True), (600.0, False)])
def test_several_threads_do_it_where_a_file_takes_long(
    module: ModuleType, tmp_path: Path, patience: float, help_comes: bool
) -> None:
    bodies = [b"%d" % at * 500_000 for at in range(60)]
    most = 0
    for turn in range(20):  # they do not live long, and who counts them may have no core meanwhile
        (tmp_path / f"{turn}").mkdir()
        parts = [str(tmp_path / f"{turn}" / f"{at}") for at in range(60)]
        told = []
        most = max(most, most_threads(lambda: told.append(module.write_new(parts, bodies, patience))))  # noqa: B023
        assert told == [[as_told(Path(part)) for part in parts]]
        assert [Path(part).read_bytes() for part in parts] == bodies
        shutil.rmtree(tmp_path / f"{turn}")
        if most > 1 or not help_comes:
            break
    assert (1 < most <= 16) == help_comes


@pytest.mark.parametrize("files", [1, 4, 5, 6, 30])
def test_with_help_each_file_has_its_own_outcome(module: ModuleType, tmp_path: Path, files: int) -> None:
    parts, targets = ([str(tmp_path / f"{name}{at}") for at in range(files)] for name in ("part", "target"))
    for at in range(2, files, 3):
        Path(parts[at]).write_bytes(b"theirs")
    told = module.write_new(parts, [b"%d" % at for at in range(files)], 0.0)
    assert told == [errno.EEXIST if at % 3 == 2 else as_told(Path(part)) for at, part in enumerate(parts)]
    for at in range(1, files, 3):
        Path(targets[at]).write_bytes(b"theirs")
    told = module.move_new(parts, targets, 0.0)
    assert told == [errno.EEXIST if at % 3 == 1 else as_told(Path(target)) for at, target in enumerate(targets)]
    kept = [b"%d" % at if at % 3 == 0 else b"theirs" for at in range(files)]
    assert [Path(target).read_bytes() for target in targets] == kept


def test_what_a_helper_cannot_do_at_all_is_told(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{at}") for at in range(40)]
    with pytest.raises(ValueError, match="null"):
        plain.write_new([*names, "a\0b", *names], [b""] * 81, 0.0)


@pytest.mark.parametrize("module", MODULES[1:])
def test_what_cannot_be_meant_is_refused_before_anything_is_done(module: ModuleType, tmp_path: Path) -> None:
    new = str(tmp_path / "new")
    with pytest.raises(ValueError, match="same length"):
        module.write_new([new], [])
    with pytest.raises(ValueError, match="null"):
        module.write_new([new, "a\0b"], [b"", b""])
    with pytest.raises(TypeError, match="list"):
        module.write_new((new,), [b""])
    with pytest.raises(TypeError, match="bytes-like"):
        module.write_new([new], ["text"])
    with pytest.raises(ValueError, match="room"):
        module.Md5().pour(0, 1, bytearray(1), 1, 0.0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("module", MODULES[1:])
def test_a_list_that_becomes_shorter_while_it_is_read_is_an_error(module: ModuleType, tmp_path: Path) -> None:
    class Treacherous:
        def __fspath__(self) -> str:
            names.clear()
            return str(tmp_path / "one")

    names: list[Any] = [Treacherous(), str(tmp_path / "two")]
    with pytest.raises(IndexError):
        module.write_new(names, [b"", b""])
    assert os.listdir(tmp_path) == []


def test_ears_that_are_closed_are_an_error_and_not_silence(module: ModuleType) -> None:
    class Closed:
        def fileno(self) -> int:
            return number

        def poll(self, *_: object) -> None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    poll = select.epoll()
    number = poll.fileno()
    poll.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        module.hear_any(Closed(), 1.0, bytearray(100))


@pytest.mark.parametrize("module", MODULES[1:])
@pytest.mark.parametrize("seconds", [3e6, 1e300, float("inf")])
def test_who_waits_for_very_long_waits_until_something_comes(module: ModuleType, seconds: float) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, select.epoll() as poll:
        poll.register(ours, select.EPOLLIN)
        speaking = threading.Timer(0.05, theirs.sendall, (b"late",))
        speaking.start()
        assert module.hear_any(poll, seconds, bytearray(100)) == [(ours.fileno(), b"late")]
        speaking.join()
