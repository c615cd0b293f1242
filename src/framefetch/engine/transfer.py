"""One attempt at one file: ask, check, receive, digest, publish.

A body that fits one block is returned whole, to be saved with others in one go; a larger one is streamed into a part
file, one block being digested and written while the next one arrives.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Final

from framefetch.engine.content import ContentCheck, describe_start
from framefetch.errors import BodyTooLong, DigestMismatch, ResourceChanged
from framefetch.store.files import SmallBody

if TYPE_CHECKING:
    from framefetch.engine.base import Tools
    from framefetch.engine.limits import Bandwidth
    from framefetch.models import Receipt, Request
    from framefetch.sources.base import Body
    from framefetch.store.files import Part

__all__ = ["BLOCK", "fetch", "with_start"]

#: Bytes handed to a thread at a time; also the largest body that is collected in memory.
BLOCK: Final = 1 << 20


async def fetch(request: Request, url: str, tools: Tools, bandwidth: Bandwidth, *, decode: bool) -> SmallBody | Receipt:
    """Make one attempt.

    Parameters
    ----------
    request : Request
        The file.
    url : str
        The mirror to ask.
    tools : Tools
        Sources, files and options.
    bandwidth : Bandwidth
        What is received is counted against it.
    decode : bool
        Whether a content coding that nobody asked for is undone.

    Returns
    -------
    SmallBody or Receipt
        A whole body still to be saved, or the receipt of a file that is published.

    Raises
    ------
    TransferError, StorageError
        Why it is not held.
    """
    source = tools.sources[url.partition(":")[0].lower()]
    # Where the table states a digest, the digest decides, and the look at the content only explains a mismatch.
    judged = tools.options.transfer.check_content and not request.digests
    async with source.open(url, tools.meter, decode=decode) as body:
        limit = _limit(request, body, tools)
        if limit is None and body.length is None:
            limit = await _half_the_room(tools)
        intake = _Intake(body, ContentCheck(request.path, judge=judged), limit, bandwidth)
        if body.length is not None and body.length <= BLOCK:
            return SmallBody(request, await intake.whole(), length_known=True, etag=body.etag)
        part = await tools.files.create(request)
        try:
            await intake.into(part)
            return await part.publish(length_known=body.framed, etag=body.etag)
        except BaseException as error:
            await asyncio.shield(part.discard())
            if isinstance(error, DigestMismatch):
                raise with_start(error, intake.check.head) from error
            raise


def _limit(request: Request, body: Body, tools: Tools) -> tuple[int, str] | None:
    """Return how many bytes may come, and why; a length that is wrong already is refused before the first of them."""
    if request.size is not None and body.length is not None and body.length != request.size:
        raise ResourceChanged(
            f"expected {request.size:,} bytes as the table states, the server says {body.length:,}; "
            "is the table out of date?"
        )
    cap = tools.options.transfer.max_bytes
    if request.size is None and cap is not None and body.length is not None and body.length > cap:
        raise BodyTooLong(f"expected at most {cap:,} bytes (max_bytes), the server says {body.length:,}")
    if request.size is not None:
        return request.size, "as the table states"
    return None if cap is None else (cap, "max_bytes")


async def _half_the_room(tools: Tools) -> tuple[int, str] | None:
    """Return how many bytes a body may have of which nobody says how long it is: it must leave room for the others."""
    usage = await tools.files.run(shutil.disk_usage, tools.files.root)
    # Some file systems do not tell, and say that they have nothing.
    return (usage.free // 2, "half of the free space; max_bytes allows more") if usage.total else None


def with_start(error: DigestMismatch, head: bytes) -> DigestMismatch:
    """Return the error with how the body began: a login page explains a wrong digest better than the digest."""
    return DigestMismatch(f"{error}; the body begins with {describe_start(head)}")


class _Intake:
    """What each received block passes on its way: the size limit, the content check, the bandwidth limit."""

    def __init__(self, body: Body, check: ContentCheck, limit: tuple[int, str] | None, bandwidth: Bandwidth) -> None:
        self._body = body
        self.check = check
        self._limit: int | None
        self._limit, self._why = limit or (None, "")
        self._bandwidth = bandwidth
        self._received = 0

    async def _next(self) -> bytes | memoryview:
        block = await self._body.read()
        self._received += len(block)
        if self._limit is not None and self._received > self._limit:
            raise BodyTooLong(f"expected at most {self._limit:,} bytes ({self._why}), got more; the rest was not read")
        if block:
            self.check.feed(block)
            await self._bandwidth.take(len(block))
        else:
            self.check.finish()
        return block

    async def whole(self) -> bytes:
        """Return a body that fits in memory."""
        blocks: list[bytes] = []
        while block := await self._next():
            blocks.append(bytes(block))
            self._give_back(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def _give_back(self, block: bytes | memoryview) -> None:
        if isinstance(block, memoryview):
            self._body.give_back(block)

    async def into(self, part: Part) -> None:
        """Stream a body into a part; at most one block is being written while the next one is collected."""
        writing: asyncio.Task[None] | None = None
        try:
            while block := await self._collect():
                if writing is not None:
                    await writing
                writing = asyncio.create_task(self._write(part, block))
        finally:
            if writing is not None:
                await writing

    async def _write(self, part: Part, block: bytes | memoryview) -> None:
        await part.write(block)
        self._give_back(block)

    async def _collect(self) -> bytes | memoryview:
        """Return a whole block as it was received, or small pieces joined to about a block."""
        pieces: list[bytes] = []
        size = 0
        while size < BLOCK and (block := await self._next()):
            if isinstance(block, memoryview) and not pieces:
                return block
            pieces.append(bytes(block))
            self._give_back(block)
            size += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
