"""Part files and how they become files: write, digest, compare, publish.

Bytes of an unfinished file live in ``.framefetch/parts`` under a short private name, never under a final one. The
order at the end is fixed: the digest is compared, the intent is written to the journal, the part is renamed. Only
then may a row of the manifest say that the file is held. A process that dies between the last two leaves a file
that its journal explains; the next run adopts it by hash (see `framefetch.store.recovery`).

The engine talks to `FileStore` from its loop. All work on the disk is done in a few threads, one hop for a block of
about a mebibyte, and one hop for *all* small files that finished in the meantime: a hop each for open, write and
close would cost more than the files.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from aiofiles.threadpool import wrap

from framefetch.errors import FramefetchError, StorageError, UnsafePath
from framefetch.models import Digest, Entity, Entry, Receipt, Request, Verified
from framefetch.native.at_once import at_once
from framefetch.store.digesting import OPEN_NEW, DigestingFile
from framefetch.store.digests import algorithms_for, digests_of_all, hash_file, verdict
from framefetch.store.kept import KeptParts
from framefetch.store.partpaths import PartPaths
from framefetch.store.parts import Left, Part, to_the_end
from framefetch.store.places import Content, Places, remove, translate_oserror
from framefetch.store.schema import boot_id
from framefetch.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from framefetch.native.calls import Stat
    from framefetch.store.journal import Journal
    from framefetch.store.places import Sight
    from framefetch.store.sidecar import Sidecar

__all__ = ["PRIVATE", "FileStore", "Part", "SmallBody", "is_private", "to_the_end"]

T = TypeVar("T")

#: Where everything lives that is not the user's.
PRIVATE = ".framefetch"
#: Threads that write and digest: as many as are digested together (`framefetch.native`).
THREADS: Final = 8


def is_private(path: str) -> bool:
    """Return whether a path below the cache is of what it keeps for itself, and so never a user's file."""
    return path.partition("/")[0] == PRIVATE or path.startswith("manifest.")


@dataclass(frozen=True, slots=True)
class SmallBody:
    """A whole body that fits in memory, on its way to the disk."""

    request: Request
    body: bytes
    length_known: bool
    etag: str | None = None


class FileStore:
    """The files below one cache folder.

    Parameters
    ----------
    root : str
        Absolute path of the cache; the only link that is followed is the root itself.
    journal : Journal
        Where intents are written before a rename.
    """

    def __init__(self, root: str, journal: Journal) -> None:
        self.root = root
        #: Called, in the loop's thread, with a file that was published for a call which had been cancelled by then.
        self.orphaned: Callable[[Entry], None] | None = None
        self._places = Places(root)
        self._journal = journal
        self._parts = os.path.join(root, PRIVATE, "parts")
        self._paths = PartPaths(self._parts, journal.token)
        self.boot = boot_id()
        self._kept = KeptParts(self._parts, self.boot)
        self._jobs = 0
        self._executor = Threads(THREADS, "framefetch-disk")
        #: Small bodies do not stand in line behind the stints of large ones.
        self._saving = Threads(1, "framefetch-save")

    @property
    def notices(self) -> list[str]:
        """Messages about files that were found in the way and set aside."""
        return self._places.notices

    def prepare(self, version: str | None = None) -> None:
        """Make the private folders, and prove that a file can be written, before anything is fetched.

        Parameters
        ----------
        version : str, optional
            The release that is to be fetched: its folder must be on the same disk.

        Raises
        ------
        StorageError
            Where the cache cannot be written.
        """
        probe = self.new_path()
        try:
            self._places.ensure_folder(f"{PRIVATE}/parts")
            os.close(os.open(probe, OPEN_NEW, 0o666))
            os.unlink(probe)
            self._kept.scan()
            if version is not None:
                self._places.require_same_disk(version, f"{PRIVATE}/parts")
        except UnsafePath as error:
            failure = StorageError(str(error))
            failure.fatal = True
            raise failure from error
        except OSError as error:
            remove(probe)
            failure = translate_oserror(error, f"writing to the cache {self.root}")
            failure.fatal = True
            raise failure from error

    def look_for_parts(self) -> None:
        """Learn what parts wait that other processes have left since; blocking, and beside transfers.

        Raises
        ------
        OSError
            Where their folder cannot be read.
        """
        self._kept.learn()

    def ask_for_owners(self, owner: Callable[[str, str, Sight], str | None]) -> None:
        """Let this tell which key holds a path by now, see `Places`, before what stands there is set aside."""
        self._places.owner = owner

    def own(self, path: str, seen: Sight | None) -> None:
        """Let the file that was seen at this path, if one was, be replaced: the manifest knows it as ours."""
        self._places.own(path, seen)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a blocking function in a thread of the store, to its end even where the caller is cancelled."""
        loop = asyncio.get_running_loop()
        self._jobs += 1
        try:
            return await to_the_end(loop.run_in_executor(self._executor, function, *arguments))
        finally:
            self._jobs -= 1

    @property
    def crowd(self) -> float:
        """How many jobs of `run` there are for each thread, under way and in line."""
        return self._jobs / THREADS

    async def create(self, request: Request) -> Part:
        """Open a new part file for one request.

        Raises
        ------
        StorageError
            Where the disk refuses.
        """
        path = self.new_path()
        work = asyncio.ensure_future(self.run(DigestingFile, path, algorithms_for(request.digests)))
        try:
            raw = await to_the_end(work)
        except OSError as error:
            raise translate_oserror(error, f"opening a part for {request.path}") from error
        except asyncio.CancelledError:
            if not work.cancelled() and work.exception() is None:
                work.result().close()
                remove(path)
            raise
        return self._part(request, path, raw)

    async def keep_beginning(self, request: Request, beginning: bytes, entity: Entity) -> int:
        """Let the first bytes of a file wait for the rest, in one hop; return how many are kept.

        Raises
        ------
        StorageError
            Where the disk refuses.
        """
        try:
            return await self.run(self._keep_beginning, request, beginning, entity)
        except OSError as error:
            raise translate_oserror(error, f"writing {request.path}") from error

    def _keep_beginning(self, request: Request, beginning: bytes, entity: Entity) -> int:
        path = self.new_path()
        part = self._part(request, path, DigestingFile(path, algorithms_for(request.digests)))
        return part.keep_beginning(beginning, entity)

    def keeps(self, request: Request) -> bool:
        """Return whether an earlier attempt may have kept a part of a request."""
        return self._kept.has(request)

    async def resume(self, request: Request) -> Part | None:
        """Open the part that an earlier attempt kept of a request; None where there is none that can be believed.

        Raises
        ------
        StorageError
            Where the disk refuses.
        """
        if not self._kept.has(request):
            return None
        path = self.new_path()
        work = asyncio.ensure_future(self.run(self._kept.take, request, path))
        try:
            taken = await to_the_end(work)
        except OSError as error:
            raise translate_oserror(error, f"opening the part of {request.path}") from error
        except asyncio.CancelledError:
            if (
                not work.cancelled()
                and work.exception() is None
                and (part := self._taken(request, path, work.result()))
            ):
                await part.suspend()
            raise
        return self._taken(request, path, taken)

    def _taken(self, request: Request, path: str, taken: tuple[DigestingFile, Sidecar] | None) -> Part | None:
        if taken is None:
            return None
        raw, sidecar = taken
        part = self._part(request, path, raw)
        part.recognise(sidecar)
        return part

    def _part(self, request: Request, path: str, raw: DigestingFile) -> Part:
        return Part(self, request, path, wrap(raw, executor=self._executor), raw)

    def waiting(self, requests: Iterable[Request]) -> int:
        """Return how many bytes of these files are on the disk already, in parts that wait; blocking."""
        return self._kept.waiting(requests)

    def keep(self, part: str, request: Request, left: Left) -> None:
        """Let a part of this store wait to be gone on with; blocking."""
        self._kept.keep(part, request, left)

    async def save(self, bodies: Sequence[SmallBody]) -> list[Receipt | FramefetchError]:
        """Write, digest, compare and publish whole small bodies in one hop.

        Returns
        -------
        list
            For each body its receipt, or why it could not be kept.
        """
        loop = asyncio.get_running_loop()
        return await to_the_end(loop.run_in_executor(self._saving, self.save_here, bodies))

    def save_here(self, bodies: Sequence[SmallBody]) -> list[Receipt | FramefetchError]:
        """Save as `save` does, in the thread that calls."""
        results: dict[int, Receipt | FramefetchError] = {}
        contents: dict[int, Content] = {}
        stated = digests_of_all((small.body, small.request.digests) for small in bodies)
        for at, (small, digests) in enumerate(zip(bodies, stated, strict=True)):
            size = len(small.body)
            try:
                verified = verdict(small.request, size, digests, length_known=small.length_known)
            except FramefetchError as error:
                results[at] = error
            else:
                contents[at] = Content(size, digests, verified, small.etag, small.request.key)
        ready = self._write_small(bodies, contents, results)
        try:
            self._journal.intend(
                [
                    (bodies[at].request, content.digests, content.verified, content.etag)
                    for at, (_, content, _) in ready.items()
                ]
            )
        except OSError as error:
            failure = translate_oserror(error, "writing the journal")
            for at, (part, *_) in ready.items():
                remove(part)
                results[at] = failure
            ready = {}
        moves = [(part, bodies[at].request.path, content, written) for at, (part, content, written) in ready.items()]
        for at, move, result in zip(ready, moves, self._places.move_all_in(moves), strict=True):
            results[at] = result if isinstance(result, Receipt) else _ours(result, f"publishing {move[1]}")
        return [results[at] for at in range(len(bodies))]

    def _write_small(
        self,
        bodies: Sequence[SmallBody],
        contents: Mapping[int, Content],
        results: dict[int, Receipt | FramefetchError],
    ) -> dict[int, tuple[str, Content, Stat]]:
        """Write those bodies into parts; put into the results why one could not be written."""
        ready: dict[int, tuple[str, Content, Stat]] = {}
        paths, written = self._write_parts([bodies[at].body for at in contents])
        for (at, content), path, found in zip(contents.items(), paths, written, strict=True):
            if isinstance(found, int):
                error = OSError(found, os.strerror(found), path)
                results[at] = translate_oserror(error, f"writing {bodies[at].request.path}")
            else:
                ready[at] = path, content, found
        return ready

    def _write_parts(self, bodies: list[bytes]) -> tuple[list[str], list[Stat | int]]:
        """Write bodies into new parts; return their paths, and for each what the system says, or an error's number."""
        paths = self._paths.several(len(bodies))
        began = time.monotonic()
        written = at_once.write_new(paths, bodies)
        self._paths.took(len(paths), time.monotonic() - began)
        gone = [at for at, found in enumerate(written) if found == errno.ENOENT]
        if gone:  # so are their folders, as where others take this process for dead
            self._paths.give_up()
            again = [self._paths.new() for _ in gone]
            for at, path, found in zip(gone, again, at_once.write_new(again, [bodies[at] for at in gone]), strict=True):
                paths[at], written[at] = path, found
        return paths, written

    def put(self, part: str, request: Request, content: Content) -> Receipt:
        """Publish a finished part of this store; blocking."""
        self._journal.intend([(request, content.digests, content.verified, content.etag)])
        return self._places.move_in(part, request.path, replace(content, key=request.key))

    def copy(self, source: str, request: Request) -> Receipt:
        """Make a second file of one that is held, reading it once; blocking.

        Raises
        ------
        StorageError, UnsafePath, DigestMismatch, ResourceChanged
            Where it cannot be read or written, or is not what the table states.
        """
        part = self.new_path()
        try:
            with (
                open(os.path.join(self.root, source), "rb") as old,
                DigestingFile(part, algorithms_for(request.digests)) as new,
            ):
                while block := old.read(1 << 20):
                    new.write(block)
            digests = new.hasher.digests()
            verified = verdict(request, new.hasher.length, digests, length_known=True)
            return self.put(part, request, Content(new.hasher.length, digests, verified))
        except OSError as error:
            remove(part)
            raise translate_oserror(error, f"copying {source}") from error
        except BaseException:
            remove(part)
            raise

    def report_orphan(self, request: Request, receipt: Receipt) -> None:
        """Tell of a file that was published for a call which had been cancelled by then."""
        self.own(request.path, receipt.sight)
        if self.orphaned is not None:
            self.orphaned(Entry(request.version, request.key, request.path, receipt, time.time()))

    def absolute(self, path: str) -> str:
        """Return the absolute path of a relative one."""
        return self._places.absolute(path)

    def receipt(self, path: str, digests: tuple[Digest, ...], verified: Verified, etag: str | None = None) -> Receipt:
        """Describe the regular file at a path.

        Raises
        ------
        OSError
            Where there is none.
        """
        return self._places.receipt(path, digests, verified, etag)

    def hash(
        self, path: str, algorithms: Iterable[str], stopped: Callable[[], bool] | None = None
    ) -> tuple[Digest, ...]:
        """Digest the file at a path."""
        return hash_file(self.absolute(path), algorithms, stopped)

    def new_path(self) -> str:
        """Return a path for a new part of this process."""
        return self._paths.new()

    def close(self) -> None:
        """End the threads."""
        self._saving.shutdown(wait=True)
        self._executor.shutdown(wait=True)
        self._paths.close()


def _ours(error: OSError | FramefetchError, doing: str) -> FramefetchError:
    """Return an error as one of ours; one that is already is returned as it is."""
    return error if isinstance(error, FramefetchError) else translate_oserror(error, doing)
