"""Memory that bodies are received into, used again and again.

A fresh buffer for each read costs a page fault for every 4 KiB of it, which on a fast network is as much as
receiving. Blocks go from the connection to the digesting thread and come back.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BLOCK", "Blocks"]

#: Bytes of a block: what one hop to a thread digests and writes.
BLOCK: Final = 1 << 20
#: Bytes that one read may bring where no block is being filled.
SCRATCH: Final = 1 << 18
#: Blocks kept for later when nobody needs them.
SPARE: Final = 32


class Blocks:
    """Blocks for all connections of one loop."""

    def __init__(self) -> None:
        self._spare: list[bytearray] = []
        #: Shared by all connections: what is read into it is consumed before the next read.
        self.scratch = memoryview(bytearray(SCRATCH))

    def take(self, size: int) -> memoryview:
        """Return room for at most `size` bytes of a body, at most a block."""
        block = self._spare.pop() if self._spare else bytearray(BLOCK)
        return memoryview(block)[:size]

    def give_back(self, view: memoryview) -> None:
        """Let a block be used again."""
        block = view.obj
        view.release()
        if isinstance(block, bytearray) and len(self._spare) < SPARE:
            self._spare.append(block)
