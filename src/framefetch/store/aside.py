"""Second names for what is set aside: a file that is not ours keeps its bytes."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["keep", "kept_name"]

#: Bytes of one name on every common file system.
NAME_BYTES: Final = 255


def kept_name(name: str, number: int) -> str:
    """Return the name under which a file is set aside for the so manieth time."""
    room = NAME_BYTES - len(tail := f".kept-{number}")
    head = name if len(name.encode()) <= room else name.encode()[:room].decode("utf-8", "ignore")
    return head + tail


def keep(target: str, kept: str) -> bool:
    """Give a file a second name; False where that name is taken."""
    try:
        # Unlike a rename these never overwrite, and the name is never vacant.
        if os.path.islink(target):
            os.symlink(os.readlink(target), kept)
        else:
            os.link(target, kept)
    except FileExistsError:
        return False
    except OSError:
        if os.path.lexists(kept):
            return False
        os.rename(target, kept)
    return True
