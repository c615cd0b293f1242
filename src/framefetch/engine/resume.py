"""When an attempt that failed leaves something to go on with, and what to ask for then. Pure functions.

Bytes are kept only where a later answer can be proved to be of the same version: by a validator that the same URL
gave, or by a digest that the table states for the whole file. Everything else is begun anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from framefetch.errors import DiskFull, IncompleteBody, NetworkError, Stalled, StatusError, TooManyOpenFiles, TooSlow
from framefetch.models import Entity
from framefetch.sources.base import Ask
from framefetch.urls import redact

if TYPE_CHECKING:
    from framefetch.models import Request
    from framefetch.sources.base import Body

__all__ = ["leaves_part", "resumption", "unproved", "with_rest", "worth_keeping"]

#: Ends of an attempt that say nothing against the bytes that had come before.
_HARMLESS = (NetworkError, Stalled, TooSlow, IncompleteBody, StatusError, DiskFull, TooManyOpenFiles)


def worth_keeping(entity: Entity | None, request: Request) -> bool:
    """Return whether anything could prove that a later answer is of this version."""
    return entity is not None and (entity.etag is not None or entity.modified is not None or bool(request.digests))


def leaves_part(error: BaseException) -> bool:
    """Return whether what had come before an error may be kept; a cancellation is no fault of the bytes either."""
    return isinstance(error, _HARMLESS) or not isinstance(error, Exception)


def unproved(entity: Entity) -> Entity:
    """Return what is noted beside bytes that perhaps are not all of one version: only a digest vouches for them."""
    return Entity(entity.url, total=entity.total)


def with_rest(known: Entity, body: Body, url: str) -> Entity:
    """Return what a part is the beginning of once the bytes of an answer follow.

    Parameters
    ----------
    known : Entity
        What it was the beginning of before.
    body : Body
        The rest, which came because a validator or the digest of the table will tell.
    url : str
        Where it was asked for.

    Returns
    -------
    Entity
        The same where its own validator binds them: whoever ignores If-Range leaves the tag of a 206 out, and need not
        repeat a date (RFC 9110 section 15.3.7). Else one without validators, which goes on only with a digest.
    """
    if known.url == redact(url) and (known.etag == body.etag if known.etag is not None else known.modified is not None):
        return known
    return Entity(
        redact(url), total=known.total if known.total is not None or body.entity is None else body.entity.total
    )


def resumption(entity: Entity | None, length: int, url: str, request: Request) -> Ask | None:
    """Return what to ask for to go on with a part, None where it must be begun anew.

    Parameters
    ----------
    entity : Entity or None
        What the part is the beginning of.
    length : int
        Its bytes.
    url : str
        The mirror to ask now; the validators of another one mean nothing to it.
    request : Request
        The file.
    """
    if entity is None or not length or (request.size is not None and length > request.size):
        return None
    if entity.total is not None and length > entity.total:
        return None
    if entity.url != redact(url):
        entity = Entity(redact(url), total=entity.total)
    return Ask(length, entity=entity, has_digest=bool(request.digests)) if worth_keeping(entity, request) else None
