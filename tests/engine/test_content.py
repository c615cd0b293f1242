"""A body begins as its suffix promises, or it is refused."""

import gzip
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framefetch.engine.content import ContentCheck, describe_start
from framefetch.errors import ContentMismatch

HDF5 = b"\x89HDF\r\n\x1a\n"


def passes(name: str, body: bytes, block: int = 1 << 20) -> bool:
    check = ContentCheck(name)
    try:
        for start in range(0, len(body), block):
            check.feed(body[start : start + block])
        check.finish()
    except ContentMismatch:
        return False
    return True


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.nwb", HDF5 + b"x" * 100),
        ("A.NWB", HDF5),
        ("a.nii.gz", gzip.compress(b"x")),
        ("a.zip", b"PK\x03\x04rest"),
        ("empty.zip", b"PK\x05\x06" + bytes(18)),
        ("a.fits", b"SIMPLE  =                    T"),
        ("a.npy", npy()),
        ("a.parquet", b"PAR1...PAR1"),
        ("a.png", b"\x89PNG\r\n\x1a\n..."),
        ("a.nc", b"CDF\x01" + bytes(30)),
        ("a.nc", HDF5),
        ("a.nii", b"\x5c\x01\0\0" + bytes(340) + b"n+1\0"),
        ("a.nii", b"\x1c\x02\0\0n+2\0\r\n\x1a\n" + bytes(530)),
        ("a.txt", b"<html>"),
        ("a", b""),
        ("a.csv", b""),
    ],
)
def test_what_is_right_passes(name: str, body: bytes) -> None:
    assert passes(name, body)
    assert passes(name, body, block=7)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.nwb", b"<!DOCTYPE html><html>"),
        ("a.nwb", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"),
        ("a.nwb", b""),
        ("a.nwb", b'{"error": "AccessDenied"}'),
        ("a.nii.gz", b"\x89HDF"),
        ("a.nii", bytes(400)),
        ("a.npy", b"PK\x03\x04"),
        ("a.h5", b"x" * 100 + HDF5),  # the signature, but at no offset where it may be
    ],
)
def test_what_is_wrong_fails(name: str, body: bytes) -> None:
    assert not passes(name, body)
    assert not passes(name, body, block=5)


@settings(deadline=None)  # the last offset takes long on a slow machine
@given(power=st.integers(0, 12), block=st.integers(100, 5000), extra=st.binary(max_size=40))
def test_hdf5_may_begin_at_each_offset_of_its_specification(power: int, block: int, extra: bytes) -> None:
    offset = 0 if power == 0 else 512 << (power - 1)
    assert passes("a.nwb", b"u" * offset + HDF5 + extra, block)
    assert not passes("a.nwb", b"u" * (offset + 1) + HDF5 + extra, block)


def test_a_page_is_refused_at_once_and_not_at_its_end() -> None:
    check = ContentCheck("a.nwb")
    with pytest.raises(ContentMismatch, match=r"expected a \.nwb file, got a body that begins with HTML"):
        check.feed(b"<html><title>x</title>" + b" " * 600)


def test_without_judging_only_the_head_is_kept() -> None:
    check = ContentCheck("a.nwb", judge=False)
    check.feed(b"<html>" + b"x" * 2000)
    check.finish()
    assert check.head == b"<html>" + b"x" * 506


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "nothing"),
        (b"<HTML><head><TITLE>\n Sign\n in </TITLE>", "HTML (title 'Sign in'); is a login needed?"),
        (b"<?xml version='1.0'?><Error>", "XML b"),
        (b'{"detail": 1}', "JSON b"),
        (b"version https://git-lfs.github.com/spec/v1", "a git-LFS pointer"),
    ],
)
def test_the_message_shows_how_it_began(head: bytes, words: str) -> None:
    assert words in describe_start(head)
