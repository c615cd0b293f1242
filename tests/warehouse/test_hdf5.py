from __future__ import annotations

import io

import h5py
import numpy as np
import pytest

from framefetch.warehouse import MINIMUM_SIZE, hdf5_content, hdf5_file
from framefetch.warehouse.content import pieces

SIZES = [MINIMUM_SIZE, MINIMUM_SIZE + 1, 1024, 8192, 65_521 + 512, 300_000, 1 << 20, (3 << 20) + 17]


@pytest.mark.parametrize("size", SIZES)
def test_h5py_reads_back_every_byte(size):
    data = hdf5_file(size, seed=7)
    assert len(data) == size
    with h5py.File(io.BytesIO(data), "r") as file:
        assert list(file) == ["data"]
        dataset = file["data"]
        assert (dataset.dtype, dataset.shape, dataset.chunks) == (np.uint8, (size - 512,), None)
        assert dataset.id.get_offset() == 512
        assert dataset[...].tobytes() == data[512:]


def test_h5py_can_add_to_it(tmp_path):
    """A file that is only nearly valid is read, but does not survive being written to."""
    path = tmp_path / "grown.h5"
    path.write_bytes(hdf5_file(8192))
    with h5py.File(path, "r+") as file:
        for number in range(50):
            file.create_dataset(f"group{number}/more", data=np.arange(100))
        file["data"][:4] = [1, 2, 3, 4]
    with h5py.File(path, "r") as file:
        assert len(file) == 51
        assert file["data"][:5].tobytes() == b"\1\2\3\4" + hdf5_file(8192)[516:517]


def test_same_seed_same_bytes_other_seed_others():
    assert hdf5_file(8192, 1) == hdf5_file(8192, 1)
    assert hdf5_file(8192, 1)[512:] != hdf5_file(8192, 2)[512:]


def test_no_segment_passes_for_another():
    data = hdf5_file(8 << 20)
    for size in (4096, 1 << 16, 1 << 18, 1 << 20):
        blocks = [data[at : at + size] for at in range(512, len(data) - size, size)]
        assert len(set(blocks)) == len(blocks)


def test_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 513 bytes, got 512"):
        hdf5_file(512)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (500, 600), (511, 513), (512, 70_000), (65_000, 300_000), (299_999, 300_000)]
)
def test_slices_are_those_of_the_whole(start, stop):
    content = hdf5_content(300_000, 5)
    assert b"".join(pieces(content, start, stop)) == hdf5_file(300_000, 5)[start:stop]
