from __future__ import annotations

import os
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from mpt import data
from mpt.data.listing import checksum, find_pictures, listings

NAMES = ("ant", "bee", "cow")


def picture(path, value=100, *, side=6, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, dtype=np.uint8)).save(path, **options)


@pytest.fixture
def root(tmp_path):
    """Three classes with four training and two test pictures each."""
    for split, number in (("train", 4), ("test", 2)):
        for name in NAMES:
            for i in range(number):
                picture(tmp_path / "pictures" / split / name / f"{i}.png", 40 * i)
    return tmp_path / "pictures"


@pytest.fixture
def whole(tmp_path):
    """Three class folders of ten pictures each, without a split."""
    for name in NAMES:
        for i in range(10):
            picture(tmp_path / "whole" / name / f"{i}.png", 20 * i)
    return tmp_path / "whole"


def listed(root, **options):
    train, test, names = listings(root, name="image_folder", **options)
    return len(train.files), len(test.files), names


def test_links_to_folders_and_files_are_followed_and_a_circle_ends(root, tmp_path):
    (root / "train" / "ant").rename(tmp_path / "elsewhere")
    (root / "train" / "ant").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "inner").mkdir()
    picture(tmp_path / "elsewhere" / "inner" / "x.png")
    (tmp_path / "elsewhere" / "circle").symlink_to(root / "train" / "ant")
    (root / "train" / "bee" / "linked.png").symlink_to(root / "train" / "bee" / "0.png")
    assert listed(root) == (14, 6, NAMES)


def test_what_the_system_leaves_is_neither_a_class_nor_a_picture(root):
    for folder in (".git", "__MACOSX", ".thumbnails", "@eaDir", "lost+found", "System Volume Information"):
        picture(root / "train" / folder / "x.png")
        picture(root / "train" / "ant" / folder / "x.png")
    (root / "train" / "ant" / "._0.png").write_bytes(b"\0\5\x16\7")
    (root / "train" / "ant" / ".hidden.png").write_bytes(b"")
    (root / "train" / ".DS_Store").write_bytes(b"x")
    picture(root / "train" / "ant" / ".cache" / "x.png")
    assert listed(root) == (12, 6, NAMES)


def test_names_that_are_not_utf_8_are_read_and_a_class_name_is_escaped(root, tmp_path):
    (root / "train" / "cow" / "3.png").rename(os.fsdecode(os.fsencode(root / "train" / "cow") + b"/\xff\xfe.png"))
    for split in ("train", "test"):
        (root / split / "cow").rename(os.fsdecode(os.fsencode(root / split) + b"/d\xe9"))
    read = data.load("image_folder", root=root, cache=tmp_path / "cache", progress=False)
    assert read.class_names == ("ant", "bee", "d\\xe9")
    assert len(read.train) == 12
    assert len(str(checksum(root, name="image_folder"))) == 16


def test_a_folder_that_cannot_be_read_is_named_and_no_class_is_lost(root):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("test/bee"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with (
        mock.patch("os.scandir", refuse),
        pytest.raises(OSError, match=r"test/bee cannot be read \(Permission denied\)"),
    ):
        listed(root)


def flat(root):
    for file in (root / "test" / "ant").iterdir():
        file.rename(root / "test" / f"ant{file.name}")
    for name in NAMES:
        for file in (root / "test" / name).glob("*"):
            file.unlink()
        (root / "test" / name).rmdir()


def loose(root):
    picture(root / "train" / "loose.png")


def pipe(root):
    os.mkfifo(root / "train" / "ant" / "pipe.png")


def dangling(root):
    (root / "train" / "ant" / "gone.jpg").symlink_to("nowhere.jpg")


def class_away(root):
    (root / "train" / "yak").symlink_to("nowhere")


def to_device(root):
    (root / "train" / "ant" / "zero.png").symlink_to("/dev/zero")


def capital(root):
    for split in ("train", "test"):
        (root / split).rename(root / split.title())


def same_split(root):
    shutil.rmtree(root / "test")
    (root / "test").symlink_to("train")


def same_class(root):
    (root / "train" / "yak").symlink_to("ant")


def unknown_classes(root):
    for name in ("Ant", "Bee", "yak"):
        picture(root / "test" / name / "0.png")


def empty_classes(root):
    for name in ("fly", "yak"):
        (root / "train" / name).mkdir()
        (root / "train" / name / "0.jfif").write_bytes(b"")
    (root / "train" / "yak" / "README").write_bytes(b"")


def validation(root):
    (root / "test").rename(root / "validation")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (class_away, r"train/yak is a link to nothing: remove it"),
        (to_device, r"zero\.png is a pipe or device and no file: remove it"),
        (same_split, r"test/ant and .*train/ant, .* and .*, .* and .*: one folder by two names"),
        (same_class, r"train/yak and .*train/ant: one folder by two names, so its pictures would count twice"),
        (unknown_classes, r"classes 'Ant', 'Bee', 'yak' in test/ that are missing from train/, which has 'ant', 'bee'"),
        (
            empty_classes,
            r"folders fly, yak of .*train hold no pictures \(.*\), but 3 files with other .* \(none, \.jfif\)",
        ),
        (capital, r"holds Test/, Train/, which look like splits: name them train/ and test/ or val/"),
        (validation, r"holds train/, validation/, which look like splits"),
        (flat, r"test holds 2 pictures and no class folders: sort them into test/<class>/"),
        (loose, r"train holds 1 picture outside its class folders, such as loose\.png"),
        (pipe, r"pipe\.png is a pipe or device and no file: remove it"),
        (dangling, r"gone\.jpg is a link to nothing: remove it"),
    ],
)
def test_a_folder_that_would_mislead_is_refused(root, change, sentence):
    change(root)
    with pytest.raises(ValueError, match=sentence):
        listed(root)


def test_class_folders_without_a_split_need_a_size_and_then_give_every_class_its_share(whole):
    with pytest.raises(FileNotFoundError, match=r"holds 3 folders and no train/: add data\.test_size=0\.2"):
        listed(whole)
    train, test, names = listings(whole, name="image_folder", test_size=0.2)
    assert (len(train.files), len(test.files), names) == (24, 6, NAMES)
    assert [test.labels.count(label) for label in range(3)] == [2, 2, 2]
    assert not set(train.files) & set(test.files)
    assert listings(whole, name="image_folder", test_size=0.2)[1].files == test.files  # the same each time
    assert train.checksum() != test.checksum()


def test_folders_that_look_like_splits_are_no_classes_to_draw_from(root):
    validation(root)
    train, _, names = listings(root, name="image_folder", test_size=0.5)  # of train/, which is there
    assert (train.folder, names) == (root / "train", NAMES)
    (root / "train").rename(root / "Training")
    with pytest.raises(ValueError, match="holds Training/, validation/, which look like splits"):
        listings(root, name="image_folder", test_size=0.2)


def test_a_drawn_split_is_loaded_and_another_size_is_another_input(whole, tmp_path):
    read = data.load("image_folder", root=whole, test_size=0.2, cache=tmp_path / "cache", progress=False)
    again = data.load("image_folder", root=whole, test_size=0.2, cache=tmp_path / "cache", progress=False)
    assert (len(read.train), len(read.test)) == (24, 6)
    assert (again.test.pixels == read.test.pixels).all()
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    sums = {checksum(whole, name="image_folder", test_size=size) for size in (0.2, 0.3)}
    assert len(sums) == 2


def test_a_size_that_leaves_a_class_without_pictures_is_refused(whole, root):
    with pytest.raises(ValueError, match=r"data\.test_size=0\.02 leaves no picture of '.*' for testing"):
        listed(whole, test_size=0.02)
    with pytest.raises(ValueError, match=r"holds test/ already"):
        listed(root, test_size=0.2)


def test_training_pictures_alone_can_be_split(root):
    for file in find_pictures(root / "test"):
        file.unlink()
    for name in NAMES:
        (root / "test" / name).rmdir()
    (root / "test").rmdir()
    with pytest.raises(FileNotFoundError, match=r"add data\.test_size=0\.2"):
        listed(root)
    assert listed(root, test_size=0.25) == (9, 3, NAMES)
    assert isinstance(find_pictures(root)[0], Path)


def test_a_folder_around_the_pictures_is_pointed_to(root):
    with pytest.raises(FileNotFoundError, match=rf"test/<class>/ or val/<class>/: give data\.root={root}$"):
        listed(root.parent)
