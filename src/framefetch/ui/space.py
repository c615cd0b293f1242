"""Whether what a dry run would fetch fits on the disk: the answer that the real run would give."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from framefetch.store.folder import CacheFolder, require_room
from framefetch.store.manifest import Manifest

if TYPE_CHECKING:
    from framefetch.table.result import Plan

__all__ = ["require_room_for"]


def require_room_for(plan: Plan, cache_dir: str, lock_timeout: float) -> None:
    """Refuse a plan that cannot fit, but for what is on the disk already: copies, equal content, parts that wait.

    Raises
    ------
    DiskFull
        Where the real run would end so, before its first request.
    """
    requests = plan.rows.requests
    missing = [file for file in plan.rows.used() if plan.to_fetch[file] and file not in requests.copy_of]
    if not missing:
        return
    stated = list(requests.stated_of(missing))
    if not os.path.exists(os.path.join(cache_dir, Manifest.NAME)):  # nothing is there, and to look makes nothing
        require_room(os.path.realpath(cache_dir), sum(max(size, 0) for _, _, _, size, _ in stated), len(missing))
        return
    with CacheFolder(cache_dir, lock_timeout=lock_timeout, create=False) as folder:
        digests = {text for *_, texts in stated for text in texts}
        same = folder.manifest.with_digests(digests) if digests else ()
        held = {str(digest) for entry in same for digest in entry.receipt.digests}
        sizes = {file: max(size, 0) for file, _, _, size, texts in stated if held.isdisjoint(texts)}
        with contextlib.suppress(OSError):  # nothing waits in a folder that cannot be read
            folder.files.look_for_parts()
        if sizes:
            there = folder.files.waiting(requests[file] for file in sizes)
            require_room(folder.root, sum(sizes.values()) - there, len(sizes))
