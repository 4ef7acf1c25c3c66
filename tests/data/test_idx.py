from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from mpt import data
from mpt.data.idx import find_files, read_idx

NAMES = [
    f"{part}-ubyte.gz" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
]


def write(folder, *, packed=True, side=28, labels=range(6)):
    """Four files of MNIST as its home page has them; the pixels of the training images."""
    content = bytes(labels)
    pixels = np.random.default_rng(0).integers(0, 256, (6, side, side), dtype=np.uint8)
    for name in NAMES:
        if "images" in name:
            raw = struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes()
        else:
            raw = struct.pack(">II", 0x801, len(content)) + content
        path = folder / (name if packed else name.removesuffix(".gz"))
        path.write_bytes(gzip.compress(raw) if packed else raw)
    return pixels


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_four_files_are_read_where_they_lie_and_nothing_is_written(name, packed, tmp_path):
    pixels = write(tmp_path, packed=packed)
    read = data.load(name, root=tmp_path, download=False)
    assert np.array_equal(read.train.pixels[:, 0], pixels)
    assert read.test.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(list(tmp_path.iterdir())) == 4
    assert read.class_names[0] == ("0 - zero" if name == "mnist" else "T-shirt/top")


def test_all_four_must_be_there(tmp_path):
    write(tmp_path)
    (tmp_path / NAMES[2]).unlink()
    assert find_files(tmp_path, NAMES) is None
    with pytest.raises(FileNotFoundError, match="fashion_mnist was not found"):
        data.load("fashion_mnist", root=tmp_path, download=False)


@pytest.mark.parametrize("content", [b"", b"junk", b"\0\0\x08\x01\0\0\0\x09abc", b"\0\0\x0d\x01\0\0\0\x01a"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_file_is_named(content, suffix, tmp_path):
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(ValueError, match=f"images{suffix} is damaged: delete it"):
        read_idx(path)


def test_a_packed_file_that_is_cut_off_or_not_packed_is_named(tmp_path):
    write(tmp_path)
    path = tmp_path / NAMES[0]
    whole = path.read_bytes()
    for content in (whole[:-20], b"plain text", whole[:40] + bytes(60) + whole[100:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged: delete it"):
            data.load("mnist", root=tmp_path)


@pytest.mark.parametrize("other", [{"side": 8}, {"labels": range(5)}, {"labels": range(5, 11)}])
def test_files_of_another_data_set_are_refused(other, tmp_path):
    write(tmp_path, **other)
    with pytest.raises(ValueError, match="are not those of mnist"):
        data.load("mnist", root=tmp_path)
