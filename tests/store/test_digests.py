"""Digests of bytes as they pass, and of files as they lie."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch.models import DIGEST_LENGTHS, Digest
from framefetch.store.digests import BLOCK, Hasher, algorithms_for, hash_file


@given(blocks=st.lists(st.binary(max_size=50)), algorithms=st.sets(st.sampled_from(sorted(DIGEST_LENGTHS))))
def test_blocks_digest_as_the_whole_does(blocks: list[bytes], algorithms: set[str]) -> None:
    hasher = Hasher(sorted(algorithms))
    for block in blocks:
        hasher.update(memoryview(block))
    whole = b"".join(blocks)
    assert hasher.length == len(whole)
    assert hasher.digests() == tuple(Digest(name, hashlib.new(name, whole).hexdigest()) for name in sorted(algorithms))


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
def test_a_file_of_any_length_is_read_to_its_end(tmp_path, size) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "f").write_bytes(content[:size])
    assert hash_file(str(tmp_path / "f"), ["md5", "sha256"]) == (
        Digest("md5", hashlib.md5(content[:size]).hexdigest()),
        Digest("sha256", hashlib.sha256(content[:size]).hexdigest()),
    )


def test_md5_is_always_made_and_none_twice() -> None:
    sha, md5 = Digest("sha1", "0" * 40), Digest("md5", "0" * 32)
    assert algorithms_for(()) == ("md5",)
    assert algorithms_for((sha, md5)) == ("md5", "sha1")


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        hash_file(str(tmp_path / "none"), ["md5"])
