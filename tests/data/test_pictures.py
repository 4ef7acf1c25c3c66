from __future__ import annotations

import importlib
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mpt.data import pictures
from mpt.data.pictures import common_side, decode, fit_central_crop, fit_square, middle_box, square


def save(path, mode="RGB", *, side=4, **options):
    Image.new(mode, (side, side), options.pop("colour", 100)).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "1", "P"])
def test_pictures_of_any_mode_become_rgb(tmp_path, mode):
    assert square(save(tmp_path / "x.png", mode), 4, resize=False).shape == (4, 4, 3)


def test_cmyk_becomes_rgb_and_transparency_is_dropped_without_a_warning(tmp_path):
    assert square(save(tmp_path / "x.jpg", "CMYK", colour=(0, 0, 0, 0)), 4, resize=False).min() > 250
    palette = Image.new("P", (4, 4))
    palette.putpalette([10, 20, 30] * 256)
    palette.save(tmp_path / "p.png", transparency=b"\0" * 256)
    assert square(tmp_path / "p.png", 4, resize=False)[0, 0].tolist() == [10, 20, 30]


def test_the_first_picture_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert square(tmp_path / "x.gif", 4, resize=False)[0, 0].argmax() == 0


def test_the_rotation_that_a_camera_notes_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(tmp_path / "x.png", exif=exif)
    assert decode(tmp_path / "x.png").getpixel((1, 0)) == (3, 4, 5)


def test_a_picture_larger_than_any_cameras_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", side=20)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 300)
    with pytest.raises(ValueError, match=r"x\.png has 400 pixels, where 300 are the most"):
        decode(path)


def test_between_the_limit_of_pil_and_ours_nothing_is_said(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", side=20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(path)
        importlib.reload(pictures)  # as in a new process
        assert pictures.decode(path).size == (20, 20)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match=r"bomb\.png has more pixels, where"):
        common_side(tmp_path / "bomb.png")


def lfs(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lfs, r"is a pointer of Git LFS and not the file itself: run git lfs pull"),
        (empty, r"is empty: delete or replace it"),
        (os.mkfifo, r"is a folder, a pipe or a device and no picture"),
        (os.mkdir, r"is a folder, a pipe or a device and no picture"),
    ],
)
def test_what_is_no_picture_is_refused_and_a_pipe_is_not_opened(tmp_path, make, sentence):
    make(tmp_path / "x.png")
    with pytest.raises(ValueError, match=sentence):
        decode(tmp_path / "x.png")


def test_a_missing_picture_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no picture at"):
        decode(tmp_path / "x.png")


@pytest.mark.parametrize("size", [(1, 200_000), (200_000, 1), (3, 900_000)])
@pytest.mark.parametrize("fit", [fit_square, fit_central_crop])
def test_of_a_picture_that_is_a_line_the_middle_is_resized(size, fit):
    picture = Image.new("L", size)
    picture.paste(200, tuple(max(0, length // 2 - 40) for length in size) + tuple(length // 2 + 40 for length in size))
    assert fit(picture, 16).tolist() == [[200] * 16] * 16
    assert middle_box((1, 1000), 16) is None


def test_colours_of_16_bits_are_read_by_their_upper_8(tmp_path):
    parts = (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" + bytes(range(12))))
    chunks = [
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in (*parts, (b"IEND", b""))
    ]
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert np.asarray(decode(tmp_path / "x.png")).tolist() == [[[0, 2, 4], [6, 8, 10]]]
