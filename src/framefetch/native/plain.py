"""What `framefetch.native._native` does at one go, done here a call at a time: where that module cannot be had."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from framefetch.native.calls import OPEN_NEW, rename, stat_of, write_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from framefetch.native.calls import Stat

__all__ = [
    "Md5",
    "ask_all",
    "hear_any",
    "in_turn",
    "md5_all",
    "move_new",
    "plain_answer",
    "write_new",
]

#: Where a file takes so many seconds, as the first ones show, so many threads help at most.
PATIENCE, TRIED, HELPERS = 0.0005, 4, 15

T = TypeVar("T")
R = TypeVar("R")

#: Held by who has its turn.
_turn = threading.Lock()


def _forget_turn() -> None:
    global _turn  # noqa: PLW0603 - a child has nobody who would give it back
    _turn = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_turn)


def in_turn(function: Callable[[T], R], argument: T, /) -> R:
    """Call a function, and return what it returns, while no other thread does; not from within one.

    That is for what lets the interpreter's lock go again and again, as OpenSSL does for each record of 16 KiB: threads
    that do that at the same time do little but hand it to one another.
    """
    with _turn:
        return function(argument)


class Md5:
    """MD5 of bytes as they pass."""

    __slots__ = ("_hash",)

    def __init__(self, begun: hashlib._Hash | None = None, /) -> None:
        self._hash = begun or hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take the next bytes."""
        self._hash.update(data)

    def write(self, target: int, data: bytes | bytearray | memoryview, /) -> int:
        """Write the next bytes to a descriptor and take them, or neither; return 0, or the number of the error."""
        try:
            write_all(target, data)
        except OSError as error:
            return error.errno or errno.EIO
        self.update(data)
        return 0

    def pour(
        self,
        source: int | Callable[[memoryview], int],
        target: int,
        room: bytearray | memoryview,
        most: int,
        seconds: float,
        /,
    ) -> tuple[int, bool, int, int]:
        """Receive, write to a descriptor, and take what was written, until nothing is there.

        Parameters
        ----------
        source : int or callable
            A descriptor that does not block, or what puts bytes into some room and returns how many, called by
            `in_turn`; what that raises is raised, and nothing is taken.
        target : int
            The other descriptor.
        room : bytearray or memoryview
            Where to receive.
        most : int
            Bytes at most.
        seconds : float
            Time after which not to go on.

        Returns
        -------
        tuple of (int, bool, int, int)
            Bytes that were taken; whether no more were there; the numbers of the errors of reading, and of writing.
        """
        view, begun = memoryview(room), self._hash.copy()
        taken, until = 0, time.monotonic() + seconds
        while taken < most:
            free = view[: most - taken]
            if callable(source):
                try:
                    count = _given(source, free)
                except BaseException:
                    self._hash = begun
                    raise
            else:
                count, broke = _read_now(source, free)
                if broke:
                    return taken, True, broke, 0
            if not count:
                return taken, True, 0, 0  # an end too is for others to see, and to say what it means
            if error := self.write(target, view[:count]):
                return taken, False, 0, error
            taken += count
            if time.monotonic() >= until:
                break
        return taken, False, 0, 0

    def read(self, source: int, offset: int, room: bytearray | memoryview, most: int, /) -> tuple[int, int]:
        """Read a file from some place on and take that, as far as it goes.

        Returns
        -------
        tuple of (int, int)
            Bytes that were taken, and the number of an error.
        """
        view, taken = memoryview(room), 0
        while taken < most:
            try:
                count = os.preadv(source, [view[: most - taken]], offset + taken)
            except OSError as error:
                return taken, error.errno or errno.EIO
            if not count:
                break
            self.update(view[:count])
            taken += count
        return taken, 0

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far, in hex."""
        return self._hash.hexdigest()

    def copy(self) -> Self:
        """Return another that has taken the same bytes."""
        return type(self)(self._hash.copy())


def md5_all(bodies: list[bytes], /) -> list[str]:
    """Return the MD5 of each body of a list, in hex."""
    return [hashlib.md5(body, usedforsecurity=False).hexdigest() for body in bodies]


def ask_all(sockets: list[int], requests: list[bytes], /) -> list[int]:
    """Send something on each socket that does not block and is silent.

    Returns
    -------
    list of int
        For each how many bytes it took, or -1 where it is not silent, or broken.
    """
    return [_ask(number, request) for number, request in zip(sockets, requests, strict=True)]


def hear_any(poll: select.epoll, seconds: float, room: bytearray | memoryview, /) -> list[tuple[int, bytes | int]]:
    """Wait for what a poll object listens to, and read what has come, as long as there is room.

    Parameters
    ----------
    poll : epoll
        What it listens to is heard at most 64 at a time.
    seconds : float
        How long to wait; for ever where it is below zero.
    room : bytearray or memoryview
        Where to receive.

    Returns
    -------
    list of tuple
        Descriptors, each with its bytes, or the number of its error.
    """
    heard: list[tuple[int, bytes | int]] = []
    left = len(room)
    for number, _ in poll.poll(seconds, 64):
        if not left:
            break
        try:
            data = os.read(number, left)
        except OSError as error:
            heard.append((number, error.errno or errno.EIO))
        else:
            heard.append((number, data))
            left -= len(data)
    return heard


def plain_answer(_: bytes, /) -> tuple[bytes, str | None] | None:
    """Return body and entity tag of an answer of which nothing is in doubt, or None: who calls has rules of his own."""
    return None


def _given(source: Callable[[memoryview], int], room: memoryview) -> int:
    """Have something put bytes into some room; return how many."""
    count = in_turn(source, room)
    if not 0 <= count <= len(room):
        raise ValueError("expected the number of bytes that were put into the room")
    return count


def _read_now(source: int, room: memoryview) -> tuple[int, int]:
    """Read what a descriptor has for the moment; return how many bytes, and the number of an error."""
    while True:
        try:
            return os.readv(source, [room]), 0
        except InterruptedError:
            continue
        except BlockingIOError:
            return 0, 0
        except OSError as broke:
            return 0, broke.errno or errno.EIO


def _ask(number: int, request: bytes) -> int:
    poll = select.poll()
    poll.register(number, select.POLLIN)
    if poll.poll(0):
        return -1
    try:
        return os.write(number, request)
    except (BlockingIOError, InterruptedError):
        return 0
    except OSError:
        return -1


def write_new(paths: list[str], bodies: list[bytes], patience: float = PATIENCE, /) -> list[Stat | int]:
    """Write new files; one that fails is removed.

    Parameters
    ----------
    paths : list of str
        Where.
    bodies : list of bytes
        What.
    patience : float, default `PATIENCE`
        Seconds that a file may take before several threads write those that are left, side by side.

    Returns
    -------
    list of Stat or int
        For each what the system says of it, or the number of its error.
    """
    return _each(_write_one, list(zip(paths, bodies, strict=True)), patience)


def move_new(parts: list[str], targets: list[str], patience: float = PATIENCE, /) -> list[Stat | int]:
    """Give files other names, never ones that are taken: these are told as `errno.EEXIST`.

    Parameters
    ----------
    parts, targets : list of str
        Their names, and those they are to have.
    patience : float, default `PATIENCE`
        Seconds that a file may take before several threads move those that are left, side by side.

    Returns
    -------
    list of Stat or int
        For each what the system says of what is there now, or the number of its error.
    """
    return _each(_move_one, list(zip(parts, targets, strict=True)), patience)


def _each(
    function: Callable[..., os.stat_result], pairs: list[tuple[str, str | bytes]], patience: float
) -> list[Stat | int]:
    """Do something with each pair; with helpers, once the first ones have taken longer than they may."""
    results: list[Stat | int] = [0] * len(pairs)
    left, door, failures = iter(range(len(pairs))), threading.Lock(), list[BaseException]()

    def go_on(most: int) -> None:
        try:
            for _ in range(most):
                with door:
                    at = next(left, None)
                if at is None:
                    return
                results[at] = _or_error(function, *pairs[at])
        except BaseException as error:  # noqa: BLE001 - it is raised for whoever waits for all of them
            failures.append(error)

    began, helpers = time.monotonic(), []
    go_on(TRIED)
    if time.monotonic() - began >= TRIED * patience:
        helpers = [threading.Thread(target=go_on, args=(len(pairs),)) for _ in pairs[TRIED + 1 :][:HELPERS]]
    started = []
    with contextlib.suppress(RuntimeError):  # there can be no more of them
        for helper in helpers:
            helper.start()
            started.append(helper)
    go_on(len(pairs))
    for helper in started:
        helper.join()
    if failures:
        raise failures[0]
    return results


def _or_error(function: Callable[..., os.stat_result], *arguments: object) -> Stat | int:
    try:
        return stat_of(function(*arguments))
    except OSError as error:
        return error.errno or errno.EIO


def _write_one(path: str, body: bytes) -> os.stat_result:
    handle = os.open(path, OPEN_NEW, 0o666)
    try:
        try:
            write_all(handle, body)
        finally:
            os.close(handle)  # a full disk or quota may show itself only here
        return os.lstat(path)  # when it is closed: only by then a disk that is far away has it, with the time it keeps
    except BaseException:
        with contextlib.suppress(OSError):  # why it failed is what is to be told
            os.unlink(path)
        raise


def _move_one(part: str, target: str) -> os.stat_result:
    try:
        os.lstat(target)
    except FileNotFoundError:
        rename(part, target)
        return os.lstat(target)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
