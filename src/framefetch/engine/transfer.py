"""One attempt at one file: ask, check, receive, digest, publish.

A body that fits one block is returned whole, to be saved with others in one go; a larger one is streamed into a part
file, one block being digested and written while the next one arrives.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from framefetch.engine.content import ContentCheck, describe_start
from framefetch.engine.resume import leaves_part, resumption, worth_keeping
from framefetch.errors import BodyTooLong, DigestMismatch, FramefetchError, ResourceChanged, TransferError
from framefetch.store.files import SmallBody

if TYPE_CHECKING:
    from collections.abc import Sequence

    from framefetch.engine.base import Tools
    from framefetch.engine.limits import Bandwidth
    from framefetch.models import Receipt, Request
    from framefetch.sources.base import Body
    from framefetch.store.files import Part

__all__ = ["BLOCK", "fetch", "with_start"]

#: Bytes handed to a thread at a time; also the largest body that is collected in memory.
BLOCK: Final = 1 << 20
#: Bytes of a small body that broke which are worth a part: fewer are asked for anew.
WORTH_KEEPING: Final = 8 << 10


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
    part = await tools.files.resume(request)
    try:
        ask = None
        if part is not None:
            ask = resumption(part.entity, part.length, url, request)
        async with source.open(url, tools.meter, decode=decode, ask=ask) as body:
            intake = _intake(request, body, tools, bandwidth)
            if part is None:
                if body.length is not None and body.length <= BLOCK:
                    whole = await intake.whole()
                    if intake.broken is None:
                        return SmallBody(request, whole, length_known=True, etag=body.etag)
                    part = await tools.files.create(request)
                    await intake.save(whole, part, request)
                    raise intake.broken  # noqa: TRY301 - what came before it is kept below
                part = await tools.files.create(request)
            elif part.length != body.offset:
                await part.begin_anew()
            await intake.into(part, request)
            return await _published(part, intake, body)
    except BaseException as error:
        if part is not None:
            await asyncio.shield(_let_go(part, error))
        raise


def _intake(request: Request, body: Body, tools: Tools, bandwidth: Bandwidth) -> _Intake:
    # Where the table states a digest, the digest decides, and the look at the content only explains a mismatch. What is
    # gone on with had passed the look.
    judged = tools.options.transfer.check_content and not request.digests and not body.offset
    return _Intake(body, ContentCheck(request.path, judge=judged), _limit(request, body, tools), bandwidth)


async def _published(part: Part, intake: _Intake, body: Body) -> Receipt:
    try:
        return await part.publish(length_known=body.framed, etag=body.etag)
    except DigestMismatch as error:
        if body.offset:
            raise
        raise with_start(error, intake.check.head) from error


async def _let_go(part: Part, error: BaseException) -> None:
    """Keep what an attempt leaves for the next one, or drop it."""
    if not leaves_part(error):
        await part.discard()
    else:
        kept = await part.suspend()
        if isinstance(error, FramefetchError):
            error.kept = kept


def _limit(request: Request, body: Body, tools: Tools) -> int | None:
    """Return how many bytes may come; a length that is wrong already is refused before the first of them."""
    whole = None if body.length is None else body.offset + body.length
    if request.size is not None and whole is not None and whole != request.size:
        raise ResourceChanged(
            f"expected {request.size:,} bytes as the table states, the server says {whole:,}; is the table out of date?"
        )
    cap = tools.options.transfer.max_bytes
    if request.size is None and cap is not None and whole is not None and whole > cap:
        raise BodyTooLong(f"expected at most {cap:,} bytes (max_bytes), the server says {whole:,}")
    return request.size if request.size is not None else cap


def with_start(error: DigestMismatch, head: bytes) -> DigestMismatch:
    """Return the error with how the body began: a login page explains a wrong digest better than the digest."""
    return DigestMismatch(f"{error}; the body begins with {describe_start(head)}")


class _Intake:
    """What each received block passes on its way: the size limit, the content check, the bandwidth limit."""

    def __init__(self, body: Body, check: ContentCheck, limit: int | None, bandwidth: Bandwidth) -> None:
        self._body = body
        self.check = check
        self._limit = limit
        self._bandwidth = bandwidth
        self._received = body.offset
        self._described = False
        self.broken: TransferError | None = None

    async def _next(self) -> bytes | memoryview:
        block = await self._body.read()
        self._received += len(block)
        if self._limit is not None and self._received > self._limit:
            raise BodyTooLong(f"expected at most {self._limit:,} bytes, got more; the rest was not read")
        if block:
            self.check.feed(block)
            await self._bandwidth.take(len(block))
        else:
            self.check.finish()
        return block

    async def whole(self) -> bytes:
        """Return a body that fits in memory; where it broke, and enough had come to go on with, that."""
        blocks: list[bytes] = []
        try:
            while block := await self._next():
                blocks.append(bytes(block))
                self._give_back(block)
        except TransferError as error:
            if self._received < WORTH_KEEPING or not leaves_part(error):
                raise
            self.broken = error
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    async def save(self, block: bytes, part: Part, request: Request) -> None:
        """Write what came of a body that broke."""
        await part.write(block)
        await self._describe(part, request)

    def _give_back(self, block: bytes | memoryview) -> None:
        if isinstance(block, memoryview):
            self._body.give_back(block)

    async def into(self, part: Part, request: Request) -> None:
        """Stream a body into a part; at most one block is being written while the next one is collected.

        What came before the body broke is written too: the next attempt goes on behind it.
        """
        writing: asyncio.Task[None] | None = None
        try:
            while block := await self._collect():
                if writing is not None:
                    await writing
                    await self._describe(part, request)
                writing = asyncio.create_task(self._write(part, block))
        finally:
            if writing is not None:
                await writing
                await self._describe(part, request)

    async def _describe(self, part: Part, request: Request) -> None:
        """Note beside the part what it is the beginning of, once it is known to be no login page."""
        entity = self._body.entity
        if not self._described and self.check.settled and entity is not None and worth_keeping(entity, request):
            self._described = True
            # The answer with the rest may say less of the version than the one with the beginning did.
            known = part.entity
            await part.describe(known if known is not None and known.url == entity.url else entity)

    async def _write(self, part: Part, block: bytes | memoryview) -> None:
        await part.write(block)
        self._give_back(block)

    async def _collect(self) -> bytes | memoryview:
        """Return a whole block as it was received, or small pieces joined to about a block."""
        pieces: list[bytes] = []
        size = 0
        while size < BLOCK and (block := await self._next_or_break(pieces)):
            if isinstance(block, memoryview) and not pieces:
                return block
            pieces.append(bytes(block))
            self._give_back(block)
            size += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _next_or_break(self, collected: Sequence[bytes]) -> bytes | memoryview:
        """Return the next bytes; where the body breaks, first let what was collected be written."""
        if self.broken is not None:
            raise self.broken
        try:
            return await self._next()
        except TransferError as error:
            if not collected:
                raise
            self.broken = error
            return b""
