from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from mpt import data
from mpt.data import folder


@pytest.fixture
def root(tmp_path):
    """Two classes with 5 training and 2 test pictures each, 6x6, one colour per class."""
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


def test_val_is_the_test_split_if_there_is_no_test_folder(root):
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
    assert len(list((root.parent / "cache").iterdir())) == 4  # an array and a description per split


def test_the_cache_keeps_sizes_apart(root):
    assert load(root, image_size=4).image_size == 4
    assert load(root).image_size == 6
    assert load(root, image_size=4).image_size == 4


def test_the_shorter_side_is_resized_and_the_centre_cropped(root):
    Image.fromarray(np.repeat(np.arange(0, 240, 20, dtype=np.uint8)[None], 6, 0)).save(
        root / "train" / "ant" / "wide.png"
    )
    wide = load(root, image_size=6).train.pixels[5]
    assert wide[0, 0].tolist() == list(range(60, 180, 20))
    with pytest.raises(ValueError, match=r"wide\.png is 12x6 and other pictures are 6x6: choose .* data\.image_size"):
        load(root)


def test_writing_to_the_images_does_not_change_the_cache(root):
    load(root).train.pixels.zero_()
    assert load(root).train.pixels.any()
    torch.testing.assert_close(load(root).train.pixels[0, :, 0, 0], torch.tensor([5, 100, 250], dtype=torch.uint8))


def test_on_the_cpu_pixels_stay_in_the_file_of_the_cache(root):
    read = load(root)
    assert data.Loader(read.train, data=read, batch=2, train=True).pixels.data_ptr() == read.train.pixels.data_ptr()


def test_a_folder_that_would_exceed_half_of_the_memory_is_streamed(root, monkeypatch):
    bytes_decoded = 14 * 3 * 6 * 6
    monkeypatch.setattr(folder, "memory", lambda: 2 * bytes_decoded)
    assert isinstance(load(root).train, data.Images)
    monkeypatch.setattr(folder, "memory", lambda: 2 * bytes_decoded - 1)
    assert isinstance(load(root).train, data.Files)
    assert isinstance(load(root, stream=False).train, data.Images)


def test_the_mean_of_streamed_pictures_is_measured_once_and_only_if_it_is_not_given(root, capsys):
    load(root, stream=True, mean=[0.5] * 3, std=[0.5] * 3)
    assert capsys.readouterr().err == ""
    measured = load(root, stream=True)
    assert "measuring the mean of 10 pictures" in capsys.readouterr().err
    assert load(root, stream=True).mean == measured.mean == load(root).mean
    assert "measuring" not in capsys.readouterr().err


def test_imagenet_uses_its_own_normalisation_its_val_folder_and_224_pixels(root):
    (root / "test").rename(root / "val")
    (root / "test").mkdir()  # ImageNet's own test folder has no class folders
    read = data.load("imagenet", root=root)
    assert (read.image_size, read.mean, read.std) == (224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (len(read.train), len(read.test), read.class_names) == (10, 4, ("ant", "cat"))


def test_the_checksum_changes_with_the_pictures(root):
    first = data.checksum(root, name="image_folder")
    assert data.checksum(root, name="image_folder") == first
    os.utime(root / "test" / "ant" / "0.png", ns=(1, 1))
    assert data.checksum(root, name="image_folder") != first
    assert data.checksum(root / "nowhere", name="image_folder") is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"resized_crop": True, "image_size": 4, "stream": False},
            r"data\.stream=false excludes data\.resized_crop=true",
        ),
        ({"resized_crop": True}, r"data\.resized_crop=true needs data\.image_size"),
        ({"augment": "nope"}, r"data\.augment must be one of none, augmix, got 'nope'"),
        ({"noise_std": -1.0}, r"data\.noise_std is a standard deviation and must be at least 0, .* got -1 and 1"),
        ({"noise_std": 0.1, "noise_probability": 2.0}, r"data\.noise_probability must be in \[0, 1\], got 0\.1 and 2"),
        ({"workers": -1}, r"data\.workers is a number of processes and must be at least 0, got -1"),
    ],
)
def test_impossible_options_are_refused(root, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(root, **options)


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


def evaluate(read):
    return list(data.Loader(read.test, data=read, batch=4, train=False))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (broken, r"broken\.png is not a readable picture: delete or replace it"),
        (truncated, r"0\.png is a broken picture"),
        (one_class, "one folder for each of at least two classes, got 1"),
        (empty_class, "bee holds no pictures"),
        (unknown_class, "a class 'cow' in test/ that is missing from train/"),
        (unequal_test, r"0\.png is 20x12 and other pictures are 6x6"),
        (deep, r"deep\.png has more than 8 bits per channel"),
        (no_test, r"holds train/ and no test/<class>/ or val/<class>/: add data.test_size=0.2"),
    ],
)
def test_a_wrong_folder_is_refused_with_the_reason(root, change, sentence):
    change(root)
    with pytest.raises((ValueError, OSError), match=sentence):
        load(root)
    with pytest.raises((ValueError, OSError), match=sentence):
        evaluate(load(root, stream=True, workers=0))  # streamed pictures are first read in the evaluation


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no image folder at"):
        data.load("image_folder", root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"needs data\.root"):
        data.load("image_folder")
