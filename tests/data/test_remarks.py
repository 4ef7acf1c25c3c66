from __future__ import annotations

import pytest
from PIL import Image

from mpt import data


def read(tmp_path, classes=("ant", "bee"), *, without=()):
    """The folder of one picture for each class and split, loaded; ``without`` are not in test."""
    for split in ("train", "test"):
        for name in set(classes) - set(without if split == "test" else ()):
            (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 6)).save(tmp_path / split / name / "0.png")
    return data.load("image_folder", root=tmp_path, cache=tmp_path / "cache", progress=False)


def test_a_class_without_test_pictures_is_said_without_control_characters(tmp_path, capsys):
    read(tmp_path, ("ant", "bee", "c\x1b[31m"), without=["c\x1b[31m"])
    said = capsys.readouterr().err
    assert r"no pictures of 1 class (c\x1b[31m): the test accuracy is over the other 2" in said
    assert "\x1b" not in said


def test_files_that_may_be_pictures_and_are_not_read_are_counted(tmp_path, capsys):
    (tmp_path / "train" / "ant").mkdir(parents=True)
    for name in ("0.HEIC", "1.jfif", "2.jfif", "notes.txt", "Thumbs.db"):
        (tmp_path / "train" / "ant" / name).write_bytes(b"")
    assert len(read(tmp_path).train) == 2
    said = capsys.readouterr().err
    assert "train has 3 files of kinds that are not read (.heic, .jfif) and are left out: convert them" in said
    assert "test has" not in said


@pytest.mark.parametrize("twins", [("ant", "Ant"), ("caf\u00e9", "cafe\u0301")])
def test_classes_whose_names_are_nearly_one_are_said(tmp_path, capsys, twins):
    assert len(read(tmp_path, (*twins, "bee")).class_names) == 3
    said = capsys.readouterr().err
    assert f"the classes {', '.join(sorted(twins))} are several, although names differ in case or accents alone" in said


def test_of_an_ordinary_folder_nothing_is_said(tmp_path, capsys):
    read(tmp_path)
    assert "\n".join(line for line in capsys.readouterr().err.splitlines() if "once" not in line) == ""
