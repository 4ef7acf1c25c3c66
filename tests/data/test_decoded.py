"""The cache of decoded pictures: used, checked, never fatal."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
import torch

from mpt import data
from mpt.data import decoded
from mpt.files import read_sealed, write_atomically
from tests.data.conftest import make_pictures


@pytest.fixture
def load(tmp_path):
    """``load(**options)``: seven training pictures and three test pictures of 8x8, with a cache in ``cache``."""
    make_pictures(tmp_path / "pictures", train=7, val=3, sides=(8, 9))

    def read(**options):
        return data.load(
            "image_folder", root=tmp_path / "pictures", cache=tmp_path / "cache", progress=False, **options
        )

    return read


@pytest.fixture
def sealed_npy(tmp_path):
    """A function that replaces every array of the cache by another one, sealed."""

    def write(change):
        for path in (tmp_path / "cache").glob("*.npy"):
            array = change(np.load(path))
            with decoded.replacing(path, seal=True) as file:
                np.lib.format.write_array(file, array)

    return write


def flipped(content):
    return content[:-60] + bytes([content[-60] ^ 1]) + content[-59:]


@pytest.mark.parametrize("ending", [".npy", ".json"])
@pytest.mark.parametrize("damage", [lambda x: b"", lambda x: x[: len(x) // 2], lambda x: x[:-1], flipped])
def test_a_damaged_file_is_made_again_with_a_line_that_names_it(load, tmp_path, capsys, ending, damage):
    first, pixels = (read := load()), read.train.pixels.clone()  # the first is mapped from the file
    for path in (tmp_path / "cache").glob(f"*{ending}"):
        path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()
    again, errors = load(), capsys.readouterr().err
    assert torch.equal(again.train.pixels, pixels)
    assert again.mean == first.mean
    assert errors.count(f"{ending} ") == errors.count("the kept pictures are made again") == 2
    load()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ending", [".npy", ".json"])
def test_a_pipe_in_the_place_of_a_kept_file_is_replaced(load, tmp_path, capsys, ending):
    first = load()
    for path in (tmp_path / "cache").glob(f"*{ending}"):
        path.unlink()
        os.mkfifo(path)
    capsys.readouterr()
    assert torch.equal(load().train.pixels, first.train.pixels)
    assert capsys.readouterr().err.count("is not a regular file: the kept pictures are made again") == 2
    assert all(path.is_file() for path in (tmp_path / "cache").glob(f"*{ending}"))


def test_a_cache_below_a_file_is_not_told_as_damage(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert decoded._read_about(tmp_path / "file" / "x.json", "0") is None
    assert decoded._read_array(tmp_path / "file" / "x.npy", (1,)) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", [lambda x: x[1:], lambda x: x.astype(np.int16), lambda x: x[..., :1]])
def test_pictures_of_another_shape_or_type_are_made_again(load, sealed_npy, capsys, change):
    first = load()
    sealed_npy(change)
    assert torch.equal(load().train.pixels, first.train.pixels)
    assert "instead of uint8 (7, 8, 8, 3): the kept pictures are made again" in capsys.readouterr().err


@pytest.mark.parametrize("mean", [None, [0.5], ["a", "b", "c"], [float("nan")] * 3, "abc", [-1, 0, 0]])
def test_a_description_without_a_mean_is_made_again(load, tmp_path, mean):
    first = load()
    for path in (tmp_path / "cache").glob("*.json"):
        about = json.loads(read_sealed(path)) | {"mean": mean}
        write_atomically(path, json.dumps(about), seal=True)
    assert load().mean == first.mean


def test_a_disk_that_is_full_or_cannot_be_written_to_ends_nothing(load, tmp_path, monkeypatch, capsys):
    first = load()
    for path in (tmp_path / "cache").iterdir():
        path.unlink()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(decoded, "replacing", full)
        again = load()
    assert torch.equal(again.train.pixels, first.train.pixels)
    assert "cannot be kept in" in (errors := capsys.readouterr().err)
    assert "(No space left on device), and are decoded at each start: choose another data.cache=" in errors
    assert not list((tmp_path / "cache").glob("*.json"))
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "cache"
    assert len(data.load("image_folder", root=tmp_path / "pictures", cache=inside, progress=False).train) == 7
    assert (
        data.load("image_folder", root=tmp_path / "pictures", cache=inside, progress=False, stream=True).mean
        == first.mean
    )
