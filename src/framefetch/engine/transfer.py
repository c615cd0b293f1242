"""One attempt at one file: ask, check, receive, digest, publish.

A body that fits one block is returned whole, to be saved with others in one go; a larger one is streamed into a part
file, one block being digested and written while the next one arrives.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from framefetch.engine.content import ContentCheck, describe_start
from framefetch.engine.intake import BLOCK, Intake
from framefetch.engine.parallel import Parallel, can_be_split
from framefetch.engine.resume import leaves_part, resumption, unproved, with_rest
from framefetch.errors import BodyTooLong, ContentMismatch, DigestMismatch, FramefetchError, ResourceChanged
from framefetch.sources.secrets import forget
from framefetch.store.files import SmallBody

if TYPE_CHECKING:
    from framefetch.engine.base import Tools
    from framefetch.engine.lane import Lane
    from framefetch.models import Receipt, Request
    from framefetch.sources.base import Ask, Body
    from framefetch.sources.loan import Loan
    from framefetch.store.files import Part

__all__ = ["Way", "fetch", "told_of"]


@dataclass(slots=True)
class Way:
    """How a file is asked for this time.

    Parameters
    ----------
    url : str
        The mirror to ask.
    lane : Lane
        What is received is counted against it, and it knows of connections beside the one.
    decode : bool
        Whether a content coding that nobody asked for is undone.
    begun : Loan or None
        The connection on which it was asked for already.
    fresh : bool
        Whether it is asked for on a connection that has carried nothing before.
    """

    url: str
    lane: Lane
    decode: bool = True
    begun: Loan | None = None
    fresh: bool = False


async def fetch(request: Request, way: Way, tools: Tools) -> SmallBody | Receipt:
    """Make one attempt.

    Parameters
    ----------
    request : Request
        The file.
    way : Way
        Which mirror to ask, and how.
    tools : Tools
        Sources, files and options.

    Returns
    -------
    SmallBody or Receipt
        A whole body still to be saved, or the receipt of a file that is published.

    Raises
    ------
    TransferError, StorageError
        Why it is not held.
    """
    source = tools.sources[way.url.partition(":")[0].lower()]
    part = await tools.files.resume(request) if way.begun is None else None
    try:
        check = _check(request, tools)
        ask = None if part is None else await _rest_of(part, check, way.url, request)
        asking = source.open(way.url, tools.meter, decode=way.decode, ask=ask, begun=way.begun, fresh=way.fresh)
        async with asking as body:
            check = check if body.offset else _check(request, tools)
            intake = Intake(body, request, check, _limit(request, body, tools), way.lane)
            if part is None and (body.length is None or body.length <= BLOCK):
                whole = await intake.whole()
                if intake.broken is not None:
                    await _keep_beginning(request, whole or b"", intake, body, tools)
                    raise intake.broken  # noqa: TRY301 - nothing was begun
                if whole is not None:
                    return SmallBody(request, whole, length_known=body.framed, etag=body.etag)
            if body.length is None and not intake.limited:
                intake.limit_to(await _half_the_room(tools))
            if part is None:
                part = await tools.files.create(request)
            elif part.length != body.offset:
                await part.begin_anew()
            elif part.entity is not None:
                await part.describe(with_rest(part.entity, body, way.url))
            if tools.options.transfer.segments > 1 and can_be_split(body):
                await _parallel(intake, body, part, way, tools).run()
            else:
                await intake.into(part)
            return await _published(part, intake, body)
    except BaseException as error:
        if part is not None:
            await asyncio.shield(_let_go(part, error))
        if isinstance(error, FramefetchError):
            forget(error, source.secrets(way.url))
        raise


def _check(request: Request, tools: Tools) -> ContentCheck:
    # Where the table states a digest, the digest decides, and the look at the content only explains a mismatch.
    return ContentCheck(request.path, judge=tools.options.transfer.check_content and not request.digests)


async def _rest_of(part: Part, check: ContentCheck, url: str, request: Request) -> Ask | None:
    """Return what to ask for to go on with a part; None where what it has is no beginning of such a file."""
    ask = resumption(part.entity, part.length, url, request)
    seen = 0
    try:
        # Who left it may have let a digest judge.
        while ask is not None and not check.settled and seen < part.length:
            block = await part.read(seen, BLOCK)
            if not block:
                return None
            check.feed(block)
            seen += len(block)
    except ContentMismatch:
        return None
    return ask


async def _keep_beginning(request: Request, beginning: bytes, intake: Intake, body: Body, tools: Tools) -> None:
    """Let what came of a small body that broke wait for the rest."""
    # What a server pushes late, for an answer before this one, may be the end of what came.
    if intake.broken is not None and (entity := intake.entity) is not None and (body.alone or request.digests):
        entity = entity if body.alone else unproved(entity)
        intake.broken.kept = await tools.files.keep_beginning(request, beginning, entity)


def _parallel(intake: Intake, body: Body, part: Part, way: Way, tools: Tools) -> Parallel:
    assert body.entity is not None
    assert body.length is not None
    source = tools.sources[way.url.partition(":")[0].lower()]
    return Parallel(
        intake,
        part,
        replace(body.entity, total=body.offset + body.length),
        ask=lambda ask: source.open(way.url, tools.meter, decode=way.decode, ask=ask),
        slots=way.lane,
        most=tools.options.transfer.segments,
    )


async def _published(part: Part, intake: Intake, body: Body) -> Receipt:
    try:
        return await part.publish(length_known=body.framed, etag=body.etag)
    except DigestMismatch as error:
        if body.offset:
            raise
        raise _with_start(error, intake.check.head) from error


async def _let_go(part: Part, error: BaseException) -> None:
    """Keep what an attempt leaves for the next one, or drop it."""
    if not leaves_part(error):
        await part.discard()
    else:
        kept = await part.suspend()
        if isinstance(error, FramefetchError):
            error.kept = kept


def _limit(request: Request, body: Body, tools: Tools) -> tuple[int, str] | None:
    """Return how many bytes may come, and why; a length that is wrong already is refused before the first of them."""
    whole = None if body.length is None else body.offset + body.length
    if request.size is not None and whole is not None and whole != request.size:
        raise ResourceChanged(
            f"expected {request.size:,} bytes as the table states, the server says {whole:,}; is the table out of date?"
        )
    cap = tools.options.transfer.max_bytes
    if request.size is None and cap is not None and whole is not None and whole > cap:
        raise BodyTooLong(f"expected at most {cap:,} bytes (max_bytes), the server says {whole:,}")
    if request.size is not None:
        return request.size, "as the table states"
    return None if cap is None else (cap, "max_bytes")


async def _half_the_room(tools: Tools) -> tuple[int, str] | None:
    """Return how many bytes a body may have of which nobody says how long it is: it must leave room for the others."""
    usage = await tools.files.run(shutil.disk_usage, tools.files.root)
    # Some file systems do not tell, and say that they have nothing.
    return (usage.free // 2, "half of the free space; max_bytes allows more") if usage.total else None


def told_of(error: FramefetchError, small: SmallBody, url: str, tools: Tools) -> FramefetchError:
    """Return why a body that came from a URL is not the file, with how it began, and without what its host was told."""
    error = _with_start(error, small.body[:512]) if isinstance(error, DigestMismatch) else error
    forget(error, tools.sources[url.partition(":")[0].lower()].secrets(url))
    return error


def _with_start(error: DigestMismatch, head: bytes) -> DigestMismatch:
    """Return the error with how the body began: a login page explains a wrong digest better than the digest."""
    return DigestMismatch(f"{error}; the body begins with {describe_start(head)}")
