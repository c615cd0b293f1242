"""Links below the root of a cache: nothing is written through one, and nothing is held behind one."""

from __future__ import annotations

import os

from framefetch.errors import UnsafePath

__all__ = ["FoldersSeen", "no_folder"]


def no_folder(folder: str, what: str) -> UnsafePath:
    """Return why nothing is written below what stands in the place of a folder."""
    return UnsafePath(f"{what} stands at {folder}, where a folder of the cache belongs; nothing is written through it")


class FoldersSeen:
    """One look at the folders of a cache, each of them once: no file counts as held behind a link.

    Parameters
    ----------
    root : str
        Absolute path of the cache; the only link that is followed is the root itself.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._links: dict[str, str | None] = {"": None}

    def link_above(self, path: str) -> str | None:
        """Return the link that stands in the place of a folder above a path, if one does."""
        folder = path.rpartition("/")[0]
        if folder not in self._links:
            above = self.link_above(folder)
            self._links[folder] = folder if above is None and os.path.islink(f"{self._root}/{folder}") else above
        return self._links[folder]

    def require_none_above(self, path: str) -> None:
        """Refuse a path behind a link.

        Raises
        ------
        UnsafePath
            Where it is.
        """
        link = self.link_above(path)
        if link is not None:
            raise no_folder(link, "a link")
