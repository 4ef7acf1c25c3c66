from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from mpt import data


@pytest.fixture
def root(tmp_path):
    """Two classes, 5 training and 2 test pictures of 6x6 each, of one colour a class."""
    for split, count in (("train", 5), ("test", 2)):
        for name, colour in (("cat", (200, 10, 30)), ("ant", (5, 100, 250))):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (6, 6), colour).save(tmp_path / "pictures" / split / name / f"{i}.png")
    return tmp_path / "pictures"


def load(root, **options):
    return data.load("image_folder", root=root, cache=root.parent / "cache", progress=False, **options)


def test_pictures_labels_and_class_names_are_read(root):
    read = load(root)
    assert read.class_names == ("ant", "cat")
    assert read.train.pixels.shape == (10, 3, 6, 6)
    assert read.train.labels.tolist() == [0] * 5 + [1] * 5
    assert read.test.pixels[:, :, 0, 0].tolist() == [[5, 100, 250]] * 2 + [[200, 10, 30]] * 2
    np.testing.assert_allclose(read.mean, np.mean([[5, 100, 250], [200, 10, 30]], axis=0) / 255, rtol=1e-6)


def test_val_is_taken_where_there_is_no_test(root):
    (root / "test").rename(root / "val")
    assert len(load(root).test) == 4


def test_pictures_are_decoded_once_and_again_when_files_change(root, capsys):
    load(root)
    assert "decoding 10 pictures" in capsys.readouterr().err
    load(root)
    assert capsys.readouterr().err == ""
    Image.new("RGB", (6, 6), (1, 2, 3)).save(root / "train" / "ant" / "9.png")
    changed = load(root)
    assert "decoding 11 pictures" in capsys.readouterr().err
    assert changed.train.pixels[5, :, 0, 0].tolist() == [1, 2, 3]
    stat = (root / "train" / "ant" / "9.png").stat()
    Image.new("RGB", (6, 6), (9, 9, 9)).save(root / "train" / "ant" / "9.png")
    os.utime(root / "train" / "ant" / "9.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert load(root).train.pixels[5, :, 0, 0].tolist() == [9, 9, 9]
    assert len(list((root.parent / "cache").iterdir())) == 4  # an array and its description for each split


def test_sizes_are_kept_apart_in_the_cache(root):
    assert load(root, image_size=4).image_size == 4
    assert load(root).image_size == 6
    assert load(root, image_size=4).image_size == 4


def test_the_shorter_side_is_resized_and_the_centre_taken(root):
    Image.fromarray(np.repeat(np.arange(0, 240, 20, dtype=np.uint8)[None], 6, 0)).save(
        root / "train" / "ant" / "wide.png"
    )
    wide = load(root, image_size=6).train.pixels[5]
    assert wide[0, 0].tolist() == list(range(60, 180, 20))
    with pytest.raises(ValueError, match=r"wide\.png is 12x6 where others are 6x6: choose data\.image_size"):
        load(root)


def test_writing_to_the_images_does_not_change_the_cache(root):
    load(root).train.pixels.zero_()
    assert load(root).train.pixels.any()
    torch.testing.assert_close(load(root).train.pixels[0, :, 0, 0], torch.tensor([5, 100, 250], dtype=torch.uint8))


def broken(root):
    (root / "train" / "ant" / "broken.png").write_bytes(b"not a picture")


def truncated(root):
    path = root / "train" / "ant" / "0.png"
    path.write_bytes(path.read_bytes()[:-20])


def one_class(root):
    for split in ("train", "test"):
        (root / split / "cat").rename(root.parent / f"away_{split}")


def empty_class(root):
    (root / "train" / "bee").mkdir()


def unknown_class(root):
    (root / "test" / "cat").rename(root / "test" / "cow")


def unequal_test(root):
    Image.new("RGB", (20, 12)).save(root / "test" / "ant" / "0.png")


def deep(root):
    Image.fromarray(np.full((6, 6), 20000, dtype=np.uint16)).save(root / "train" / "ant" / "deep.png")


def no_test(root):
    (root / "test").rename(root.parent / "away")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (broken, r"broken\.png is not a readable picture: remove or replace it"),
        (truncated, r"0\.png is a broken picture"),
        (one_class, "one folder for each of at least two classes, it has 1"),
        (empty_class, "bee holds no pictures"),
        (unknown_class, "a class 'cow' in test/ that train/ has not"),
        (unequal_test, r"0\.png is 20x12 where others are 6x6"),
        (deep, r"deep\.png has more than 8 bits a channel"),
        (no_test, r"must hold train/<class>/\.\.\. and test/<class>"),
    ],
)
def test_a_folder_that_is_wrong_is_refused_with_the_reason(root, change, sentence):
    change(root)
    with pytest.raises((ValueError, OSError), match=sentence):
        load(root)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no image folder at"):
        data.load("image_folder", root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"needs data\.root"):
        data.load("image_folder")
