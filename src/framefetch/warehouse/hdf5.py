"""A valid HDF5 file of any size, from its specification and nothing else.

Section numbers are those of "HDF5 File Format Specification Version 3.0". The oldest forms are used throughout
(superblock 0, object headers 1, a symbol table as the root group): every reader knows them and none of them
carries a checksum. The file is a head of 512 bytes that describes one contiguous dataset, and then its bytes.
"""

from __future__ import annotations

import random
import struct
from functools import lru_cache
from typing import Final

from framefetch.warehouse.content import Repeated

__all__ = ["MINIMUM_SIZE", "hdf5_content", "hdf5_file"]

_DATA_AT: Final = 512

#: The smallest file there is: the head and one byte of data.
MINIMUM_SIZE: Final = _DATA_AT + 1

#: A prime a little below 64 KiB. A period that divides the usual segment and block sizes would let bytes written
#: at the wrong offset pass for the right ones.
_PERIOD: Final = 65_521

_UNDEFINED: Final = 0xFFFF_FFFF_FFFF_FFFF

# Where each part of the head lies.
_ROOT_HEADER: Final = 96
_BTREE: Final = 136
_HEAP: Final = 200
_HEAP_DATA: Final = 232
_SYMBOLS: Final = 248
_DATASET_HEADER: Final = 336
_NAME_AT: Final = 8


def hdf5_file(size: int, seed: int = 0) -> bytes:
    """Pack an HDF5 file of exactly `size` bytes.

    Parameters
    ----------
    size : int
        Bytes of the whole file, at least `MINIMUM_SIZE`.
    seed : int, default 0
        Files of different seeds differ; the same seed and size give the same bytes on every machine.

    Returns
    -------
    bytes
        A file whose root group holds the dataset ``data``: uint8, contiguous, ``size - 512`` long.

    Raises
    ------
    ValueError
        If `size` is below `MINIMUM_SIZE`.

    Examples
    --------
    >>> len(hdf5_file(8192))
    8192
    >>> hdf5_file(8192)[:4]
    b'\\x89HDF'
    """
    return hdf5_content(size, seed).read()


def hdf5_content(size: int, seed: int = 0) -> Repeated:
    """Describe the file of `hdf5_file` without holding it in memory.

    Parameters
    ----------
    size, seed : int
        As for `hdf5_file`.

    Returns
    -------
    Repeated
        The same bytes, produced slice by slice.

    Raises
    ------
    ValueError
        If `size` is below `MINIMUM_SIZE`.
    """
    if size < MINIMUM_SIZE:
        message = f"an HDF5 file needs at least {MINIMUM_SIZE} bytes, got {size}: give the bytes themselves instead"
        raise ValueError(message)
    return Repeated(_head(size), _block(seed, large=size >= 4 * _PERIOD), size)


@lru_cache(maxsize=64)
def _block(seed: int, *, large: bool) -> bytes:
    """Draw one period, laid out four times for large files so that a write is not cut every 64 KiB."""
    period = random.Random(seed).randbytes(_PERIOD)  # noqa: S311 - filler, no secret
    return period * 4 if large else period


def _head(size: int) -> bytes:
    parts = (
        (0, _superblock(size)),
        (
            _ROOT_HEADER,
            _object_header([(0x0011, struct.pack("<QQ", _BTREE, _HEAP))]),
        ),  # IV.A.2.r symbol table
        (_BTREE, _btree()),
        (_HEAP, _heap()),
        (_HEAP_DATA, bytes(8) + b"data".ljust(8, b"\0")),
        (_SYMBOLS, _symbols()),
        (_DATASET_HEADER, _dataset_header(size - _DATA_AT)),
    )
    head = bytearray(_DATA_AT)
    for at, part in parts:
        head[at : at + len(part)] = part
    return bytes(head)


def _superblock(size: int) -> bytes:
    """II.A, version 0. Group nodes are as small as they may be (K = 1), for the head to stay short."""
    versions = struct.pack("<8B", 0, 0, 0, 0, 0, 8, 8, 0)
    group_ks = struct.pack("<HHI", 1, 1, 0)
    addresses = struct.pack("<QQQQ", 0, _UNDEFINED, size, _UNDEFINED)
    return b"\x89HDF\r\n\x1a\n" + versions + group_ks + addresses + _entry(0, _ROOT_HEADER, group=True)


def _entry(name_at: int, header_at: int, *, group: bool) -> bytes:
    """III.C symbol table entry; cache type 1 repeats a group's B-tree and heap."""
    scratch = (_BTREE, _HEAP) if group else (0, 0)
    return struct.pack("<QQIIQQ", name_at, header_at, int(group), 0, *scratch)


def _btree() -> bytes:
    """III.A.1, version 1: one leaf of a group; the keys are the heap offsets of the names around the child."""
    return b"TREE" + struct.pack("<BBHQQQQQQQ", 0, 0, 1, _UNDEFINED, _UNDEFINED, 0, _SYMBOLS, _NAME_AT, 0, 0)


def _heap() -> bytes:
    """III.D local heap of 16 bytes; the free list head 1 means that nothing is free."""
    return b"HEAP" + struct.pack("<B3xQQQ", 0, 16, 1, _HEAP_DATA)


def _symbols() -> bytes:
    """III.B symbol table node with room for 2K = 2 entries, one in use."""
    return b"SNOD" + struct.pack("<BBH", 1, 0, 1) + _entry(_NAME_AT, _DATASET_HEADER, group=False) + bytes(40)


def _dataset_header(length: int) -> bytes:
    return _object_header(
        [
            (
                0x0001,
                struct.pack("<BBB5xQ", 1, 1, 0, length),
            ),  # IV.A.2.b dataspace 1: one dimension, no maximum
            (
                0x0003,
                struct.pack("<B3xIHH", 0x10, 1, 0, 8),
            ),  # IV.A.2.d datatype 1: fixed point, unsigned, 8 bits
            (
                0x0005,
                struct.pack("<BBBB", 2, 1, 0, 0),
            ),  # IV.A.2.f fill value 2: space allocated early, none defined
            (0x0008, struct.pack("<BBQQ", 3, 1, _DATA_AT, length)),  # IV.A.2.i layout 3: contiguous
        ]
    )


def _object_header(messages: list[tuple[int, bytes]]) -> bytes:
    """IV.A.1.a, version 1: each message is padded to 8 bytes."""
    packed = b""
    for kind, data in messages:
        padded = data.ljust(-(-len(data) // 8) * 8, b"\0")
        packed += struct.pack("<HHB3x", kind, len(padded), 0) + padded
    return struct.pack("<BxHII4x", 1, len(messages), 1, len(packed)) + packed
