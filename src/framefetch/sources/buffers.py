"""Memory that bodies are received into, used again and again.

A fresh buffer for each read costs a page fault for every 4 KiB of it, which on a fast network is as much as
receiving. Blocks go from the connection to the digesting thread and come back. There is a bound to them: beyond it
connections get small ones, and none gets a second before its first has come back.
"""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["BLOCK", "BLOCKS_OUT", "ROOM", "SEALED", "WORTH_A_BLOCK", "Blocks"]

#: Bytes of a block: what one hop to a thread digests and writes.
BLOCK: Final = 1 << 20
#: Blocks that one connection may have filled and not got back.
BLOCKS_OUT: Final = 3
#: Bytes that must be left of a body for a block to be worth it.
WORTH_A_BLOCK: Final = 1 << 17
#: Bytes of a block where many are in use.
SMALL_BLOCK: Final = 1 << 18
#: Bytes in use from which on they are many.
MANY: Final = 64 << 20
#: Bytes of one read of what is sealed, which is copied once more.
SEALED_PIECE: Final = 1 << 18
#: Bytes of a thread's room. A quarter of it is received and written while the others are digested, or wait for that:
#: halves let receiving and digesting wait for each other at the end of each.
ROOM_SIZE: Final = 2 * BLOCK
#: Bytes that one read may bring where no block is being filled.
SCRATCH: Final = 1 << 18


class _Room(threading.local):
    """Memory of a thread of its own, for what it reads and deals with before it reads again."""

    def __init__(self, size: int) -> None:
        self.view = memoryview(bytearray(size))


ROOM: Final = _Room(ROOM_SIZE)
#: The same for what comes with a seal on it, and is opened into the other.
SEALED: Final = _Room(SEALED_PIECE)


class Blocks:
    """Blocks for all connections of one loop."""

    def __init__(self) -> None:
        self._spare: dict[int, list[bytearray]] = {BLOCK: [], SMALL_BLOCK: []}
        self._in_use = 0
        #: Shared by all connections: what is read into it is consumed before the next read.
        self.scratch = memoryview(bytearray(SCRATCH))

    @property
    def are_scarce(self) -> bool:
        """Whether nobody should have more than one."""
        return self._in_use >= MANY

    def take(self, size: int) -> memoryview:
        """Return room for at most `size` bytes of a body, at most a block."""
        length = SMALL_BLOCK if self.are_scarce else BLOCK
        spare = self._spare[length]
        block = spare.pop() if spare else bytearray(length)
        self._in_use += length
        return memoryview(block)[:size]

    def give_back(self, view: memoryview) -> int:
        """Let a block be used again; return its bytes."""
        block = view.obj
        assert isinstance(block, bytearray)
        view.release()
        self._in_use -= len(block)
        self._spare[len(block)].append(block)
        return len(block)

    def lose(self, count: int) -> None:
        """Count no longer what nobody will give back: so many bytes of a connection that broke."""
        self._in_use -= count
