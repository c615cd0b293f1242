"""Signed links that have expired, made anew: once for all files of a host that were signed together.

Who signs links is the user's business (`Options.refresh_url`). What is ours is to ask seldom: the first file whose
link has expired asks for all that are still to come, those under way wait for that answer, and where not even a fresh
link works nobody asks again.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from framefetch.errors import StatusError
from framefetch.models import Link
from framefetch.threads import aside
from framefetch.urls import invisible_character, origin_of, redact, wire_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from framefetch.engine.queue import Job
    from framefetch.models import Requests
    from framefetch.options import RefreshUrl

__all__ = ["Links"]

T = TypeVar("T")

#: Links that are asked for at once.
BATCH: Final = 10_000
#: What a link begins with; parsers pass over blanks before it.
_SCHEME = re.compile(r"https?://", re.IGNORECASE)


@dataclass(slots=True)
class _Host:
    """What is known of the links of one host.

    A *making* is all links made until one of them has expired; it may take several calls, of a batch each.
    """

    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    making: int = 0
    fresh: dict[str, str] = field(default_factory=dict)
    offered: set[int] = field(default_factory=set)
    worked: bool = False
    refused: str = ""


class Links:
    """Keeps the links of one run valid.

    Parameters
    ----------
    refresh : callable or None
        The user's; None leaves expired links as they are.
    requests : Requests
        The plan.
    """

    def __init__(self, refresh: RefreshUrl | None, requests: Requests) -> None:
        self._refresh = refresh
        self._requests = requests
        self._hosts: dict[str, _Host] = {}
        self._finished = bytearray(len(requests) if refresh is not None else 0)

    def finished(self, job: Job) -> None:
        """Ask no more for the link of a file."""
        if self._refresh is not None:
            self._finished[job.request.index] = 1

    async def fetch(self, job: Job, attempt: Callable[[Job], Awaitable[T]]) -> T:
        """Make an attempt with the newest link; where that has expired, make one more with a new one.

        Raises
        ------
        FramefetchError
            What the last attempt raised.
        """
        host = self._hosts.setdefault(job.origin, _Host())
        self._take(host, job)
        try:
            return await self._try(host, job, attempt)
        except StatusError as error:
            if not error.expired or not await self._renew(host, job, error):
                raise
            job.attempts.note(error)
            job.attempts.made += 1
        return await self._try(host, job, attempt)

    async def _try(self, host: _Host, job: Job, attempt: Callable[[Job], Awaitable[T]]) -> T:
        """Make one attempt, and learn from it whether the links that were made last are any good."""
        try:
            got = await attempt(job)
        except StatusError as error:
            if error.expired and job.making == host.making > 0 and not host.worked:
                host.refused = host.refused or "the links that refresh_url made have expired too"
                error.args = (f"{error} [{host.refused}]",)
            raise
        host.worked = host.worked or job.making == host.making > 0
        self.finished(job)  # it may be saved later, but needs no link for that
        return got

    def _take(self, host: _Host, job: Job) -> bool:
        """Give a file its new link, if there is one."""
        url = host.fresh.pop(job.request.key, None)
        if url is None:
            return False
        urls = job.request.urls
        job.request = replace(job.request, urls=(*urls[: job.mirror], url, *urls[job.mirror + 1 :]))
        job.making = host.making
        return True

    async def _renew(self, host: _Host, job: Job, error: StatusError) -> bool:
        """Return whether there is a new link for a file whose link has expired."""
        async with host.asking:  # whoever waits here finds its link made by who asked
            if self._take(host, job):
                return True
            if not host.refused and job.making == host.making:
                host.making, host.worked = host.making + 1, False
                host.fresh.clear()
                host.offered.clear()
            if not host.refused and job.request.index not in host.offered:
                await self._ask(host, job)
                if self._take(host, job):
                    return True
        why = host.refused or "refresh_url gave no new link for this file"
        if why not in str(error):
            error.args = (f"{error} [{why}]",)
        return False

    async def _ask(self, host: _Host, job: Job) -> None:
        """Ask the user's function for the next batch of links of a host."""
        assert self._refresh is not None
        old: dict[str, str] = {}
        try:
            answer: object = await aside(self._call, self._refresh, host, job, old)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as error:  # noqa: BLE001 - the user's function may raise anything
            # Without its text and as no cause: it may quote what signs the links.
            host.refused = f"refresh_url raised {type(error).__name__}"
            return
        if not isinstance(answer, Mapping):
            host.refused = f"refresh_url gave {type(answer).__name__}; expected a mapping from key to URL"
            return
        usable = {key: url for key, url in answer.items() if _usable(url, job.origin)}
        if answer and not usable:
            host.refused = f"refresh_url gave no URL of {job.origin}"
        host.fresh.update({key: url for key, url in usable.items() if url != old.get(key)})

    def _call(self, refresh: RefreshUrl, host: _Host, job: Job, old: dict[str, str]) -> object:
        """Gather the expired link and signed ones of its host that are still to be used; runs in a thread."""
        links = [Link(job.request.key, job.url)]
        host.offered.add(job.request.index)
        for index in self._requests.queues().get(job.origin, ()):
            if len(links) == BATCH:
                break
            if self._finished[index] or index in host.offered:
                continue
            request = self._requests[index]
            if redact(request.urls[0]) != request.urls[0]:
                host.offered.add(index)
                links.append(Link(request.key, request.urls[0]))
        old.update((link.key, link.url) for link in links)
        return refresh(tuple(links))


def _usable(url: object, origin: str) -> bool:
    """Return whether a new link is a URL of the same origin that can be sent: headers and logins go to no other."""
    if not isinstance(url, str) or invisible_character(url) is not None or not _SCHEME.match(url):
        return False
    try:
        url.encode()  # nothing else can be sent, in a login neither
        wire_url(url)
        return origin_of(url) == origin and bool(urlsplit(url).hostname)
    except ValueError:
        return False
