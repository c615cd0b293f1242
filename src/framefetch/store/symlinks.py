"""What stands in the place of a folder of a cache: nothing is written through it, and nothing is held behind it."""

from __future__ import annotations

import os
import stat

from framefetch.errors import UnsafePath

__all__ = ["FoldersSeen", "no_folder", "not_a_folder"]


def no_folder(folder: str, what: str) -> UnsafePath:
    """Return why nothing is written below what stands in the place of a folder."""
    return UnsafePath(
        f"{what} stands at {folder}, where a folder of the cache belongs, and nothing is written through it; "
        "move it away and run again"
    )


def not_a_folder(place: str) -> str | None:
    """Return what stands at a place if it is no folder; None where it is one, or nothing stands there."""
    try:
        mode = os.lstat(place).st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISDIR(mode) else "a link" if stat.S_ISLNK(mode) else "a file"


class FoldersSeen:
    """One look at the folders of a cache, each of them once: no file counts as held behind a link.

    Parameters
    ----------
    root : str
        Absolute path of the cache; the only link that is followed is the root itself.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._obstacles: dict[str, str | None] = {"": None}
        self._kinds: dict[str, str] = {}

    def obstacle_above(self, path: str) -> str | None:
        """Return what stands in the place of a folder above a path and is none: a link, or a file."""
        folder = path.rpartition("/")[0]
        if folder not in self._obstacles:
            above = self.obstacle_above(folder)
            what = not_a_folder(f"{self._root}/{folder}") if above is None else None
            if what is not None:
                above = folder
                self._kinds[folder] = what
            self._obstacles[folder] = above
        return self._obstacles[folder]

    def link_above(self, path: str) -> str | None:
        """Return the link that stands in the place of a folder above a path, if one does."""
        obstacle = self.obstacle_above(path)
        return obstacle if obstacle is not None and self._kinds[obstacle] == "a link" else None

    def require_none_above(self, path: str) -> None:
        """Refuse a path behind a link, or below a file.

        Raises
        ------
        UnsafePath
            Where it is.
        """
        obstacle = self.obstacle_above(path)
        if obstacle is not None:
            raise no_folder(obstacle, self._kinds[obstacle])
