"""Does a body begin as its file name promises? A login page is no NWB file.

Only suffixes whose formats have a signature are judged. The check is a safety net for tables that state no digest:
where a stated digest matches, the bytes are right whatever they look like.
"""

from __future__ import annotations

import re
from typing import Final

from framefetch.errors import ContentMismatch
from framefetch.urls import excerpt

__all__ = ["ContentCheck", "describe_start"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_GZIP = b"\x1f\x8b"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

#: Signatures by suffix, at offset 0 unless a format says otherwise.
_SIGNATURES: Final[dict[str, tuple[bytes, ...]]] = {
    **dict.fromkeys((".h5", ".hdf5", ".nwb", ".hdf", ".he5"), (_HDF5,)),
    **dict.fromkeys((".gz", ".tgz", ".bgz"), (_GZIP,)),
    **dict.fromkeys((".zip", ".npz", ".xlsx", ".docx", ".whl"), _ZIP),
    ".nii": (),  # by its header, see _is_nifti
    ".fits": (b"SIMPLE  =",),
    ".npy": (b"\x93NUMPY",),
    ".parquet": (b"PAR1",),
    ".pqt": (b"PAR1",),
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".jpeg": (b"\xff\xd8\xff",),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".pdf": (b"%PDF-",),
    ".bz2": (b"BZh",),
    ".xz": (b"\xfd7zXZ\0",),
    ".zst": (b"\x28\xb5\x2f\xfd",),
    ".7z": (b"7z\xbc\xaf\x27\x1c",),
    ".nc": (_HDF5, b"CDF\x01", b"CDF\x02", b"CDF\x05"),  # netCDF-4 is HDF5, netCDF classic is not
}
_BEGINS_LATE = (".h5", ".hdf5", ".nwb", ".hdf", ".he5", ".nc")
_PAGE = re.compile(rb"(?is)\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body|script)\b")
_TITLE = re.compile(rb"(?is)<title[^>]*>(.*?)</title>")
_HEAD = 512


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    return "." + name.rpartition(".")[2] if "." in name else ""


def describe_start(head: bytes) -> str:
    """Return in words how a body begins, short and printable.

    Examples
    --------
    >>> describe_start(b"<html><head><title>Log in</title>")
    "HTML (title 'Log in'); is a login needed?"
    """
    if not head:
        return "nothing"
    if _PAGE.match(head):
        title = _TITLE.search(head)
        named = (
            " (title " + excerpt(" ".join(title.group(1).decode("utf-8", "replace").split()), 80) + ")" if title else ""
        )
        return f"HTML{named}; is a login needed?"
    start = head[:60].lstrip()
    kind = {b"{": "JSON ", b"[": "JSON ", b"<": "XML "}.get(start[:1], "")
    if head.startswith(b"version https://git-lfs"):
        kind = "a git-LFS pointer: "
    return f"{kind}b{excerpt(head, 60)}"


def _is_nifti(head: bytes) -> bool:
    """NIfTI-1 and -2 state their header's size first, in either byte order, and a magic text at its end."""
    if head[:4] in {b"\x5c\x01\0\0", b"\0\0\x01\x5c"}:
        # All zero is ANALYZE 7.5, the same header without the magic, which tools read as NIfTI.
        return head[344:347] in (b"ni1", b"n+1", b"\0\0\0")
    return head[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") and head[4:7] in (b"ni2", b"n+2")


class ContentCheck:
    """Looks at a body as it passes.

    Parameters
    ----------
    path : str
        The final name, whose suffix is the promise.
    judge : bool
        Whether a broken promise is an error; else only the first bytes are kept.
    """

    def __init__(self, path: str, *, judge: bool = True) -> None:
        self._suffix = _suffix(path) if judge else ""
        self._signatures = _SIGNATURES.get(self._suffix)
        self._seen = 0
        self._tail = b""
        self._found = self._signatures is None
        self.head = b""

    @property
    def settled(self) -> bool:
        """Whether nothing that may still come could break the promise."""
        return self._found

    def feed(self, block: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises
        ------
        ContentMismatch
            As soon as the body can no longer be what its name says.
        """
        if len(self.head) < _HEAD:
            self.head += bytes(block[: _HEAD - len(self.head)])
        if self._found:
            return
        self._found = self._look(block)
        hopeless = self._suffix not in _BEGINS_LATE or _PAGE.match(self.head)
        if not self._found and len(self.head) == _HEAD and hopeless:
            raise self._mismatch()

    def finish(self) -> None:
        """Take the end of the body.

        Raises
        ------
        ContentMismatch
            Where no signature was found.
        """
        if not self._found:
            raise self._mismatch()

    def _look(self, block: bytes | memoryview) -> bool:
        """Search the offsets at which the format may begin.

        HDF5 may be preceded by a user block: its superblock is at 0, 512, 1024, 2048 and so on, doubling (HDF5 File
        Format Specification 3.0, section II.A).
        """
        if self._suffix == ".nii":
            return len(self.head) >= 348 and _is_nifti(self.head)
        assert self._signatures is not None
        window = self._tail + block
        start = self._seen - len(self._tail)
        offset = 0
        while offset < start + len(window):
            at = offset - start
            if at >= 0 and window.startswith(self._signatures, at):
                return True
            if self._suffix not in _BEGINS_LATE:
                break
            offset = offset * 2 if offset else 512
        self._seen += len(block)
        self._tail = window[-16:]
        return False

    def _mismatch(self) -> ContentMismatch:
        return ContentMismatch(
            f"expected a {self._suffix} file, got a body that begins with {describe_start(self.head)} "
            "(if this is right, turn the content check off: --no-content-check, or "
            "TransferOptions(check_content=False))"
        )
