"""A folder of pictures with one folder per class: loaded into memory, or streamed when it is too large for that.

:mod:`mpt.data.listing` says which files these are. Class names are the folder names, in sorted order. In memory
(:mod:`mpt.data.decoded`), the pictures are decoded once into one memory-mapped array. Streamed, worker processes
(:mod:`mpt.data.workers`) decode the same pictures when a batch needs them. Both give the same numbers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

from mpt.data.decoded import Normalization, decode_folder, measure_folder
from mpt.data.images import Files, ImageData
from mpt.data.listing import Listing, listings
from mpt.data.memory import memory
from mpt.data.pictures import common_side
from mpt.data.remarks import remarks


def load_folder(
    root: Path,
    *,
    name: str = "image_folder",
    image_size: int | None,
    cache: str | Path | None,
    stream: bool | None = None,
    test_size: float | None = None,
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
        test_size: fraction of each class drawn for testing, where the folder has no such split.
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
    train, test, class_names = listings(root, name=name, test_size=test_size)
    for sentence in remarks(train, test, class_names):
        print(sentence, file=sys.stderr, flush=True)
    side, cache = image_size or common_side(train.files[0]), Path(cache or "~/.cache/mpt").expanduser()
    if stream is None:
        stream = resized_crop or 3 * side**2 * (len(train.files) + len(test.files)) > memory() / 2

    train_files, test_files = (
        _files(listing, side, resize=image_size is not None, resized_crop=resized_crop) for listing in (train, test)
    )
    crop = 0 if resized_crop else side // 8
    if stream:
        if normalization is None:
            normalization = measure_folder(train_files, train.place, train.checksum(), cache=cache, progress=progress)
        return ImageData(name, train_files, test_files, class_names, *normalization, crop=crop, flip=True)
    images, measured = decode_folder(train_files, train.place, train.checksum(), cache=cache, progress=progress)
    test_images, _ = decode_folder(test_files, test.place, test.checksum(), cache=cache, progress=progress)
    return ImageData(name, images, test_images, class_names, *(normalization or measured), crop=crop, flip=True)


def _files(listing: Listing, side: int, *, resize: bool, resized_crop: bool) -> Files:
    paths = np.array([os.fsencode(file) for file in listing.files])
    return Files(paths, torch.tensor(listing.labels), side, resize=resize, resized_crop=resized_crop)
