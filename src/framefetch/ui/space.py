"""Whether what a dry run would fetch can be written and fits on the disk: the answer that the real run would give."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from framefetch.store.files import PRIVATE
from framefetch.store.folder import CacheFolder
from framefetch.store.manifest import Manifest
from framefetch.store.places import translate_oserror
from framefetch.store.room import existing, in_the_place, require_room

if TYPE_CHECKING:
    from collections.abc import Iterable

    from framefetch.table.result import Plan

__all__ = ["require_room_for"]


def require_room_for(plan: Plan, cache_dir: str, lock_timeout: float) -> None:
    """Refuse a plan that cannot be written, or cannot fit.

    What is on the disk already takes no room: copies, equal content, parts that wait.

    Raises
    ------
    StorageError, DiskFull
        Where the real run would end so.
    """
    requests = plan.rows.requests
    wanted = [file for file in plan.rows.used() if plan.to_fetch[file]]
    if not wanted:
        return
    _require_writable(os.path.realpath(cache_dir), {path for _, _, path, *_ in requests.stated_of(wanted)})
    stated = list(requests.stated_of([file for file in wanted if file not in requests.copy_of]))
    if not os.path.exists(os.path.join(cache_dir, Manifest.NAME)):  # nothing is there, and to look makes nothing
        require_room(os.path.realpath(cache_dir), sum(max(size, 0) for _, _, _, size, _ in stated), len(stated))
        return
    with CacheFolder(cache_dir, lock_timeout=lock_timeout, create=False) as folder:
        folder.prepare(requests.version)
        digests = {text for *_, texts in stated for text in texts}
        same = folder.manifest.with_digests(digests) if digests else ()
        held = {str(digest) for entry in same for digest in entry.receipt.digests}
        sizes = {file: max(size, 0) for file, _, _, size, texts in stated if held.isdisjoint(texts)}
        with contextlib.suppress(OSError):  # nothing waits in a folder that cannot be read
            folder.files.look_for_parts()
        if sizes:
            there = folder.files.waiting(requests[file] for file in sizes)
            require_room(folder.root, sum(sizes.values()) - there, len(sizes))


def _require_writable(root: str, paths: Iterable[str]) -> None:
    """Refuse folders in which nothing can be made, as far as they are there; nothing is made to find out."""
    there = os.path.isdir(root)
    private = f"{root}/{PRIVATE}/parts"
    for folder in dict.fromkeys([private, *(os.path.dirname(f"{root}/{path}") for path in paths)]):
        place = existing(folder)
        if os.path.isdir(place):
            if os.access(place, os.W_OK | os.X_OK):
                continue
            number = errno.EROFS if _is_read_only(place) else errno.EACCES
        elif there:
            continue  # a file in the place of a folder fails the rows below it, and no others
        else:
            raise in_the_place(place)
        doing = f"writing to the cache {root}" if there else f"making the cache folder {root}"
        raise translate_oserror(OSError(number, os.strerror(number), place), doing)


def _is_read_only(place: str) -> bool:
    try:
        return bool(os.statvfs(place).f_flag & os.ST_RDONLY)
    except (OSError, AttributeError):
        return False
