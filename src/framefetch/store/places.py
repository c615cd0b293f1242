"""Final names: where a file of the cache stands, what may be replaced there, and what is set aside.

Nothing is written through a link below the root, a folder is never replaced, and a file that is not ours keeps its
bytes under another name.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from framefetch.errors import DiskFull, FramefetchError, StorageError, TargetBlocked, TooManyOpenFiles
from framefetch.models import Digest, Receipt, Verified
from framefetch.native.at_once import at_once
from framefetch.native.calls import rename, stat_of
from framefetch.store.aside import keep, kept_name
from framefetch.store.clock import dated_back
from framefetch.store.digests import hash_file
from framefetch.store.symlinks import no_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from framefetch.native.calls import Stat

__all__ = [
    "Content",
    "Places",
    "Sight",
    "free_inodes",
    "held_for",
    "inode_of",
    "remove",
    "sight_of",
    "translate_oserror",
]

#: SQLite's integers have a sign; some file systems use the 64th bit of an inode's number, and Windows even 128.
_INODE_BITS = (1 << 63) - 1


def translate_oserror(error: OSError, doing: str) -> StorageError:
    """Return an operating system's error as one of ours, saying what was being done."""
    if isinstance(error, StorageError):
        return error
    name = errno.errorcode.get(error.errno or 0, "")
    reason = f"{error.strerror or error} ({name})" if name else str(error)
    if error.errno in DiskFull.CODES:
        if free_inodes(_folder_of(error)) == 0:
            return DiskFull(f"{doing}: {reason}, no inodes are left; remove some files and run the same command again")
        return DiskFull(f"{doing}: {reason}; free some space and run the same command again")
    if error.errno in TooManyOpenFiles.CODES:
        return TooManyOpenFiles(f"{doing}: {reason}; raise the limit (ulimit -n) or lower --max-connections")
    if error.errno == errno.EXDEV:
        reason += "; the cache and the folders in it must be on one disk, so that a finished file can be renamed"
    failure = StorageError(f"{doing}: {reason}")
    failure.fatal = error.errno == errno.EROFS or (error.errno in (errno.EACCES, errno.EPERM) and _is_closed(error))
    failure.retryable = error.errno in (errno.EINTR, errno.EAGAIN, errno.ESTALE)
    return failure


def _folder_of(error: OSError) -> str:
    """Return the folder in which a file was to be made, as far as the error says."""
    path = error.filename2 or error.filename
    return os.path.dirname(path) if isinstance(path, str) else ""


def free_inodes(folder: str) -> int | None:
    """Return how many more files a file system has room for; None where it does not say, or has no such limit."""
    try:
        found = os.statvfs(folder)
    except (OSError, AttributeError):
        return None
    return found.f_favail if found.f_files else None


def _is_closed(error: OSError) -> bool:
    """Return whether no file at all can be made where this one was refused."""
    folder = _folder_of(error)
    return bool(folder) and not os.access(folder, os.W_OK | os.X_OK)


def inode_of(found: os.stat_result) -> int:
    """Return a file's inode number as it is recorded and compared."""
    return found.st_ino & _INODE_BITS


def remove(path: str) -> None:
    """Remove a file of our own, if it is there and can be removed."""
    try:
        os.unlink(path)
    except OSError:
        return  # whatever failed before is already under way; this must not hide it


#: What tells a file from another that stands at the same path later: inode, size, time; as in `Receipt.sight`.
Sight: TypeAlias = tuple[int, int, int]


def sight_of(found: os.stat_result) -> Sight:
    """Return what tells a file from another."""
    _, size, mtime_ns, _, _ = stat_of(found)
    return inode_of(found), size, mtime_ns


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of the bytes of a part when it gets its final name, and for which key they are."""

    size: int
    digests: tuple[Digest, ...]
    verified: Verified
    etag: str | None = None
    key: str | None = None


class Places:
    """The final names below one cache folder.

    Parameters
    ----------
    root : str
        Absolute path of the cache; the only link that is followed is the root itself.

    Attributes
    ----------
    notices : list of str
        Messages about files that were found in the way and set aside.
    owner : callable or None
        Tells which key holds a path by now, given the path, the key that is to have it, and what was seen there.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.owner: Callable[[str, str, Sight], str | None] | None = None
        self.notices: list[str] = []
        self._ours: dict[str, Sight] = {}

    def absolute(self, path: str) -> str:
        """Return the absolute path of a relative one."""
        return f"{self.root}/{path}"

    def own(self, path: str, seen: Sight | None) -> None:
        """Let the file that was seen at this path, if one was, be replaced; what comes to stand there later is not."""
        self._ours.pop(path, None)
        if seen is not None:
            self._ours[path] = seen

    def receipt(self, path: str, digests: tuple[Digest, ...], verified: Verified, etag: str | None = None) -> Receipt:
        """Describe the regular file at a path.

        Raises
        ------
        OSError
            Where there is none.
        """
        return _receipt(path, Content(-1, digests, verified, etag), stat_of(os.lstat(self.absolute(path))))

    def move_all_in(self, parts: Sequence[tuple[str, str, Content, Stat]]) -> list[Receipt | OSError | FramefetchError]:
        """Give finished parts their final names, at one go as far as nothing is in the way; blocking.

        Parameters
        ----------
        parts : sequence of tuple
            For each what `move_in` takes, and what the system says of it, from who has just written it.

        Returns
        -------
        list
            For each its receipt, or why it could not be moved; then it is removed.
        """
        results: dict[int, Receipt | OSError | FramefetchError] = {}
        ready: dict[int, Stat] = {}
        looked: set[str] = set()
        for at, (part, path, content, written) in enumerate(parts):
            try:
                _require_whole(path, content, written)
                self.ensure_folder(path.rpartition("/")[0], looked)
            except (OSError, FramefetchError) as error:
                remove(part)  # at once: the folder of the next may need what this one took
                results[at] = error
            else:
                ready[at] = dated_back(part, written)
        moved = at_once.move_new([parts[at][0] for at in ready], [self.absolute(parts[at][1]) for at in ready])
        for (at, dated), found in zip(ready.items(), moved, strict=True):
            part, path, content, _ = parts[at]
            try:
                results[at] = self._moved(part, path, content, dated, found)
            except (OSError, FramefetchError) as error:
                remove(part)
                results[at] = error
        return [results[at] for at in range(len(parts))]

    def _moved(self, part: str, path: str, content: Content, written: Stat, found: Stat | int) -> Receipt:
        """Return the receipt of what was moved; what is in the way is dealt with."""
        if not isinstance(found, int):
            return _published(path, content, written, found)
        if found == errno.EEXIST:
            return self._replace(part, path, content, written)
        if found == errno.ENOENT:
            raise _taken_away(path)
        raise OSError(found, os.strerror(found), part, None, self.absolute(path))

    def move_in(self, part: str, path: str, content: Content) -> Receipt:
        """Give a finished part its final name; blocking.

        Parameters
        ----------
        part : str
            Absolute path of the part.
        path : str
            Where it belongs, relative to the cache.
        content : Content
            What its bytes are.

        Raises
        ------
        OSError, UnsafePath
            Where something stands in the way, or the disk refuses.
        """
        try:
            written = stat_of(os.lstat(part))
        except FileNotFoundError as error:
            raise _taken_away(path) from error
        _require_whole(path, content, written)
        self.ensure_folder(path.rpartition("/")[0])
        written = dated_back(part, written)
        (found,) = at_once.move_new([part], [self.absolute(path)])
        return self._moved(part, path, content, written, found)

    def _replace(self, part: str, path: str, content: Content, written: Stat) -> Receipt:
        """Give a part a final name that is taken."""
        target = self.absolute(path)
        self._make_way(path, target, content)
        try:
            rename(part, target)
        except IsADirectoryError as error:
            raise TargetBlocked(f"a folder stands at {path}; move it away and run again") from error
        except FileNotFoundError as error:
            raise _taken_away(path) from error
        return _published(path, content, written, stat_of(os.lstat(target)))

    def _make_way(self, path: str, target: str, content: Content) -> None:
        """Set a file aside that stands at the target and is not ours, and any link; a folder is left alone."""
        try:
            found = os.lstat(target)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise TargetBlocked(f"a folder stands at {path}; move it away and run again")
        if stat.S_ISLNK(found.st_mode):  # somebody's, also where the file is ours that it leads to
            self._set_aside(path, target, "was a link")
            return
        if self._ours.get(path) == sight_of(found) or not stat.S_ISREG(found.st_mode):
            return
        if _has(target, found.st_size, content):
            return
        key, seen = content.key, sight_of(found)
        owner = self.owner(path, key, seen) if self.owner is not None and key is not None else None
        if owner is not None and owner != key:
            raise held_for(path, owner)
        if owner is not None and content.verified is not Verified.DIGEST:  # a stated digest says which one is right
            # This process was stopped, and what the other has brought may be a newer version.
            raise _passing(f"{path} was brought by another process meanwhile, with other bytes; run again")
        self._set_aside(path, target, "was there before and is not in the manifest")

    def _set_aside(self, path: str, target: str, why: str) -> None:
        """Give what stands at the target a second name, and tell of it."""
        folder, slash, name = path.rpartition("/")
        for number in range(1, 1000):
            kept = folder + slash + kept_name(name, number)
            if keep(target, self.absolute(kept)):
                self.notices.append(f"{path} {why}; it was kept as {kept}")
                return
        raise TargetBlocked(f"{path} is in the way, and so are 999 files kept from it")

    def require_same_disk(self, folder: str, parts: str) -> None:
        """Refuse a folder below the root to which no part can be renamed, because it is another disk.

        Raises
        ------
        OSError
            Where it is.
        """
        try:
            same = os.lstat(self.absolute(folder)).st_dev == os.lstat(self.absolute(parts)).st_dev
        except FileNotFoundError:
            return
        if not same:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), self.absolute(folder))

    def ensure_folder(self, folder: str, looked: set[str] | None = None) -> None:
        """Make a folder below the root; no part of its path may be a link.

        Nothing is remembered for longer than a lot: in a run of hours, anybody may put a link in a folder's place.

        Parameters
        ----------
        folder : str
            Relative to the root.
        looked : set of str, optional
            The folders that are fine, as was seen for the same lot; gets those that are looked at now.

        Raises
        ------
        OSError, UnsafePath
            Where it cannot be made, or something else stands there.
        """
        looked = set() if looked is None else looked
        if folder in looked or not folder:
            return
        self.ensure_folder(folder.rpartition("/")[0], looked)
        path = self.absolute(folder)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            os.makedirs(self.root, exist_ok=True)
            found = None
            try:
                os.mkdir(path)
            except FileExistsError:
                found = os.lstat(path)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            raise no_folder(folder, "a link" if stat.S_ISLNK(found.st_mode) else "a file")
        looked.add(folder)


def held_for(path: str, owner: str) -> TargetBlocked:
    """Return why a file cannot stand at a path that another key holds."""
    return TargetBlocked(
        f"{path} is held for another {'URL' if '://' in owner else 'key'}, {owner}; if a server was renamed, keep the "
        "table's old URLs and give a host_map (--host-map OLD=NEW); else use another version or path template, or prune"
    )


def _require_whole(path: str, content: Content, written: Stat) -> None:
    if written[1] != content.size:
        raise StorageError(
            f"expected {content.size:,} bytes on the disk for {path}, it has {written[1]:,}; is it full?"
        )


def _receipt(path: str, content: Content, found: Stat) -> Receipt:
    mode, size, mtime_ns, ctime_ns, inode = found
    if not stat.S_ISREG(mode):
        raise TargetBlocked(f"{path} is not a file any more")
    return Receipt(size, mtime_ns, ctime_ns, inode & _INODE_BITS, content.digests, content.verified, content.etag)


def _published(path: str, content: Content, written: Stat, found: Stat) -> Receipt:
    """Return the receipt for what stands at a path, if that is what was written."""
    receipt = _receipt(path, content, found)
    _, size, mtime_ns, _, inode = written
    if receipt.size != size or (receipt.mtime_ns != mtime_ns and receipt.inode != inode & _INODE_BITS):
        # These digests belong to bytes that are not there any more. A network file system may set the time anew
        # when a file is closed, and there are some that number a file by its name: one of the two must agree.
        raise _passing(f"{path} was replaced by another process the moment it was published")
    return receipt


def _taken_away(path: str) -> StorageError:
    """Where locks lie, another process may think that this one is dead, and clear away what it has not finished."""
    return _passing(f"the unfinished bytes of {path}, or its folder, were removed by another process")


def _passing(words: str) -> StorageError:
    failure = StorageError(words)
    failure.retryable = True
    return failure


def _has(target: str, size: int, content: Content) -> bool:
    """Return whether a file has the very bytes that are to replace it, as when another process was faster."""
    if size != content.size or not content.digests:
        return False
    try:
        return hash_file(target, [digest.algorithm for digest in content.digests]) == content.digests
    except OSError:
        return False
