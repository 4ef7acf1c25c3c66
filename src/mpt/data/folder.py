"""A folder of pictures with one folder per class: loaded into memory, or streamed when it is too large for that.

    ROOT/train/<class>/*.png     ROOT/test/<class>/*.png  or  ROOT/val/<class>/*.png

Class names are the folder names, in sorted order. In memory (:mod:`mpt.data.decoded`), the pictures are decoded once
into one memory-mapped array. Streamed, worker processes (:mod:`mpt.data.workers`) decode the same pictures when a batch
needs them. Both give the same numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mpt.data.decoded import Normalization, decode_folder, measure_folder
from mpt.data.images import Files, ImageData
from mpt.data.pictures import EXTENSIONS, common_side

_TEST = {"image_folder": ("test", "val"), "imagenet": ("val",)}  # ImageNet's test folder has no labels


class Listing(NamedTuple):
    """The pictures of one split in order: by class, then by path."""

    folder: Path
    files: list[Path]
    labels: list[int]

    def checksum(self) -> str:
        """Digest of every file's name, size and modification time."""
        digest = hashlib.sha256()
        for file in self.files:
            stat = file.stat()
            digest.update(f"{file.relative_to(self.folder)}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def load_folder(
    root: Path,
    *,
    name: str = "image_folder",
    image_size: int | None,
    cache: str | Path | None,
    stream: bool | None = None,
    resized_crop: bool = False,
    normalization: Normalization | None = None,
    progress: bool = True,
) -> ImageData:
    """Load the pictures below ``root`` as RGB, augmented by a flip and a crop with padding of an eighth of the side.

    Args:
        root: folder that holds ``train`` and ``test`` (or ``val``).
        name: ``image_folder``, or ``imagenet``, which tests on ``val``.
        image_size: side to which pictures are resized (shorter side, then centre crop); None if all pictures already
            have one size.
        cache: folder for decoded pictures, ``~/.cache/mpt`` by default.
        stream: read the files batch by batch; None does so if the decoded pictures would exceed half of
            :func:`memory`.
        resized_crop: augment by a flip and crops of random area and shape, test on the centre at 7/8 of the shorter
            side, as is usual on ImageNet; always streamed.
        normalization: mean and standard deviation; None measures them on the training pictures.
        progress: show progress on a terminal.

    Raises:
        FileNotFoundError: there is no such folder, or a split has no pictures.
        ValueError: fewer than two classes, a class in only one split, a broken picture, or unequal sizes.
    """
    if resized_crop and stream is False:
        raise ValueError(
            "data.stream=false excludes data.resized_crop=true, which crops the picture files themselves: "
            "leave one of them out"
        )
    if resized_crop and image_size is None:
        raise ValueError("data.resized_crop=true needs data.image_size, the side to which crops are resized")
    train, test, class_names = listings(root, name=name)
    side, cache = image_size or common_side(train.files[0]), Path(cache or "~/.cache/mpt").expanduser()
    if stream is None:
        stream = resized_crop or 3 * side**2 * (len(train.files) + len(test.files)) > memory() / 2

    train_files, test_files = (
        _files(listing, side, resize=image_size is not None, resized_crop=resized_crop) for listing in (train, test)
    )
    crop = 0 if resized_crop else side // 8
    if stream:
        if normalization is None:
            normalization = measure_folder(train_files, train.folder, train.checksum(), cache=cache, progress=progress)
        return ImageData(name, train_files, test_files, class_names, *normalization, crop=crop, flip=True)
    images, measured = decode_folder(train_files, train.folder, train.checksum(), cache=cache, progress=progress)
    test_images, _ = decode_folder(test_files, test.folder, test.checksum(), cache=cache, progress=progress)
    return ImageData(name, images, test_images, class_names, *(normalization or measured), crop=crop, flip=True)


def listings(root: Path, *, name: str) -> tuple[Listing, Listing, tuple[str, ...]]:
    """The training and test pictures below ``root``, and the class names."""
    test_folders = " or ".join(f"{split}/<class>/" for split in _TEST[name])
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no image folder at {root}: data.root must hold train/<class>/ and {test_folders}"
        )
    test_folder = next((root / split for split in _TEST[name] if (root / split).is_dir()), None)
    if not (root / "train").is_dir() or test_folder is None:
        raise FileNotFoundError(f"the image folder {root} must hold train/<class>/ and {test_folders}")
    class_names = _class_names(root / "train")
    if extra := sorted(set(_class_names(test_folder)) - set(class_names)):
        raise ValueError(
            f"the image folder {root} has a class {extra[0]!r} in {test_folder.name}/ that is missing from train/"
        )
    return _listing(root / "train", class_names), _listing(test_folder, class_names), class_names


def checksum(root: str | Path, *, name: str) -> str | None:
    """16 digits that change when a picture below ``root`` is added, removed or changed; None without such a folder."""
    root = Path(root).expanduser()
    if not root.is_dir():
        return None
    train, test, _ = listings(root, name=name)
    return hashlib.sha256(f"{train.checksum()}{test.checksum()}".encode()).hexdigest()[:16]


def memory() -> int:
    """Bytes of memory: the minimum over this machine, its container and its accelerators."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit ("max")
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    sizes += [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return min(sizes)


def _class_names(split: Path) -> tuple[str, ...]:
    names = tuple(sorted(folder.name for folder in split.iterdir() if folder.is_dir()))
    if split.name == "train" and len(names) < 2:
        raise ValueError(f"{split} must hold one folder for each of at least two classes, got {len(names)}")
    return names


def _listing(folder: Path, class_names: tuple[str, ...]) -> Listing:
    files, labels = [], []
    for label, name in enumerate(class_names):
        paths = (Path(parent, file) for parent, _, children in os.walk(folder / name) for file in children)
        pictures = sorted(path for path in paths if path.suffix.lower() in EXTENSIONS)
        if not pictures and folder.name == "train":
            raise ValueError(f"the class folder {folder / name} holds no pictures ({' '.join(sorted(EXTENSIONS))})")
        files += pictures
        labels += [label] * len(pictures)
    if not files:
        raise FileNotFoundError(f"{folder} holds no pictures ({' '.join(sorted(EXTENSIONS))})")
    return Listing(folder, files, labels)


def _files(listing: Listing, side: int, *, resize: bool, resized_crop: bool) -> Files:
    paths = np.array([os.fsencode(file) for file in listing.files])
    return Files(paths, torch.tensor(listing.labels), side, resize=resize, resized_crop=resized_crop)
