"""The data sets: digits (embedded), CIFAR and MNIST as torchvision stores them, image folders, ImageNet, synthetic.

Each function returns an :class:`ImageData` at its native size; :func:`load` selects one, resizes and splits.
"""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpt.data.decoded import Normalization
from mpt.data.facts import FACTS, FOLDERS, unused_options
from mpt.data.folder import load_folder
from mpt.data.idx import find_files, read_splits
from mpt.data.images import (
    ImageData,
    Images,
    as_pixels,
    default_names,
    hold_out,
    measure_mean_std,
    resize,
    split_once,
)
from mpt.data.memory import check_memory, memory
from mpt.values import check_choice, typed
from mpt.words import count

# name -> (torchvision class, megabytes to download, channel mean, channel std, crop padding, flip)
_TORCHVISION: dict[str, tuple[str, int, tuple[float, ...], tuple[float, ...], int, bool]] = {
    "cifar10": ("CIFAR10", 170, (0.491, 0.482, 0.447), (0.247, 0.243, 0.262), 4, True),
    "cifar100": ("CIFAR100", 169, (0.507, 0.487, 0.441), (0.267, 0.256, 0.276), 4, True),
    "mnist": ("MNIST", 12, (0.1307,), (0.3081,), 2, False),
    "fashion_mnist": ("FashionMNIST", 31, (0.286,), (0.353,), 2, True),
}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # channel mean, channel std
NAMES = ("digits", *_TORCHVISION, *FOLDERS, "synthetic")
_LEAST_STD = 1e-4  # of pixels in [0, 1]: less would blow them up until the loss is no number
AUGMENTS = ("none", "augmix")


@typed
def load(
    name: str,
    *,
    root: str | Path | None = None,
    image_size: int | None = None,
    test_size: float | None = None,
    val_size: float = 0,
    train_size: int | None = None,
    download: bool = True,
    cache: str | Path | None = None,
    crop: int | None = None,
    flip: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    augment: str = "none",
    noise_std: float = 0.0,
    noise_probability: float = 1.0,
    resized_crop: bool | None = None,
    stream: bool | None = None,
    workers: int | None = None,
    num_classes: int = 10,
    num_images: int = 1000,
    channels: int = 3,
    progress: bool = True,
) -> ImageData:
    """Load a data set into memory, or open its files where the pictures are too many for that.

    Args:
        name: one of ``digits cifar10 cifar100 mnist fashion_mnist image_folder imagenet synthetic``.
        root: folder of the files (not for digits and synthetic, which refuse it).
        image_size: side to which images are resized, in pixels; None keeps them as they are.
        test_size: fraction of each class drawn for testing from class folders without a test split (image folders).
        val_size: training images held out: a number, or a fraction below 1.
        train_size: maximum number of training images; None for all.
        download: download files that are missing from ``root`` (torchvision's data sets).
        cache: folder for decoded image folders.
        crop: width of the border that random crops may take in, in pixels; None is the data set's own.
        flip: mirror images at random; None is the data set's own.
        mean: of each channel, subtracted; None is the data set's own.
        std: of each channel, a divisor; None is the data set's own.
        augment: ``augmix`` adds two AugMix views of each training image.
        noise_std: standard deviation of Gaussian noise on training images, in units of [0, 1]; 0 for none.
        noise_probability: probability that a training image gets noise.
        resized_crop: crop a random area and shape (image folders, :func:`mpt.data.folder.load_folder`); None only for
            imagenet.
        stream: read the files of an image folder during training; None if they do not fit into memory.
        workers: processes that read files and augment image by image; None chooses by the cores, 0 uses none.
        num_classes: of the synthetic data set.
        num_images: of the synthetic data set.
        channels: of the synthetic data set.
        progress: show progress on a terminal.

    Raises:
        ValueError, OSError: one sentence says what is missing or wrong, and what to do.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"data.image_size is a side in pixels and must be at least 1, got {image_size}")
    check_choice("data", name, NAMES)
    given = {"root": root, "stream": stream, "cache": cache, "resized_crop": resized_crop, "test_size": test_size}
    for option, words in unused_options(name).items():
        if given[option] is not None:
            raise ValueError(f"data.{option} has an effect only with {words}: leave it out, or choose that")
    mean, std = _tuple("mean", mean), _tuple("std", std)
    if name == "digits":
        data = _digits()
    elif name in _TORCHVISION:
        data = _torchvision(name, root=_root(name, root), download=download)
    elif name in FOLDERS:
        normalization: Normalization | None = _IMAGENET if name == "imagenet" else None
        if mean is not None and std is not None:
            normalization = mean, std
        data = load_folder(
            _root(name, root),
            name=name,
            image_size=image_size or (FACTS["imagenet"].side if name == "imagenet" else None),
            cache=cache,
            stream=stream,
            test_size=test_size,
            resized_crop=name == "imagenet" if resized_crop is None else resized_crop,
            normalization=normalization,
            progress=progress,
        )
    else:
        data = _synthetic(
            num_classes=num_classes, num_images=num_images, channels=channels, image_size=image_size or 32
        )
    _check_resized(data, image_size)
    train, test = (resize(split, image_size=image_size) for split in (data.train, data.test))
    options: dict[str, Any] = {"crop": crop, "flip": flip, "mean": mean, "std": std, "workers": workers}
    options |= {"augmix": augment == "augmix", "noise_std": noise_std, "noise_probability": noise_probability}
    data = dataclasses.replace(data, train=train, test=test, **{k: v for k, v in options.items() if v is not None})
    _check_normalisation(data)
    _check_augmentation(data, augment=augment)
    return hold_out(data, val_size=val_size, train_size=train_size)


def _check_resized(data: ImageData, side: int | None) -> None:
    """Raise ValueError if the images of ``data`` would not fit into the memory when they are ``side`` pixels wide."""
    images = [split for split in (data.train, data.test) if isinstance(split, Images)]
    pixels = data.channels * sum(map(len, images))
    if side and pixels:
        fits = int((memory() / (2 * pixels)) ** 0.5)
        check_memory(pixels * side**2, what=f"data.image_size={side}", remedy=f"data.image_size={fits} fits")


def _root(name: str, root: str | Path | None) -> Path:
    if root is None:
        raise ValueError(f"data={name} needs data.root=<folder>, the folder that holds its files")
    return Path(root).expanduser()


def _tuple(option: str, values: Sequence[float] | None) -> tuple[float, ...] | None:
    try:
        return None if values is None else tuple(map(float, values))
    except (TypeError, ValueError):
        raise ValueError(f"data.{option} is a list of numbers, one per channel, got {values!r}") from None


def _check_normalisation(data: ImageData) -> None:
    for option, values in (("mean", data.mean), ("std", data.std)):
        if len(values) != data.channels or (option == "std" and min(values) < _LEAST_STD):
            least = f" of at least {_LEAST_STD}" if option == "std" else ""
            needed = count(data.channels, "number")
            raise ValueError(f"data.{option} needs {needed}{least}, one per channel, got {values}")
    if not 0 <= data.crop <= data.image_size:
        raise ValueError(
            f"data.crop is a padding in pixels and must be in [0, {data.image_size}], the image's side, got {data.crop}"
        )


def _check_augmentation(data: ImageData, *, augment: str) -> None:
    check_choice("data.augment", augment, AUGMENTS)
    if data.augmix and data.channels not in (1, 3):
        raise ValueError(f"data.augment=augmix needs images of 1 or 3 channels, {data.name} has {data.channels}")
    if data.noise_std < 0 or not 0 <= data.noise_probability <= 1:
        raise ValueError(
            "data.noise_std is a standard deviation and must be at least 0, data.noise_probability must be in [0, 1], "
            f"got {data.noise_std:g} and {data.noise_probability:g}"
        )
    if data.workers is not None and data.workers < 0:
        raise ValueError(f"data.workers is a number of processes and must be at least 0, got {data.workers}")


def _digits() -> ImageData:
    """scikit-learn's 1,797 handwritten digits, 8x8, grey levels 0 to 16; 20 % of each class form the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = as_pixels((bunch.images * (255 / 16)).round().astype(np.uint8))
    train, test = split_once(pixels, torch.from_numpy(bunch.target).long(), test_fraction=0.2)
    mean, std = measure_mean_std(train.pixels)
    return ImageData("digits", train, test, default_names(FACTS["digits"].classes), mean, std, crop=1, flip=False)


def _torchvision(name: str, *, root: Path, download: bool) -> ImageData:
    from torchvision import datasets

    kind, megabytes, mean, std, crop, flip = _TORCHVISION[name]
    dataset = getattr(datasets, kind)
    packed = find_files(root, [file for file, _ in dataset.resources]) if hasattr(dataset, "resources") else None
    if packed:  # in the folder itself, as Debian's dataset-fashion-mnist has them
        train, test = (Images(as_pixels(p), torch.from_numpy(labels).long()) for p, labels in read_splits(packed, name))
        return ImageData(name, train, test, tuple(dataset.classes), mean, std, crop, flip)
    try:
        try:
            train = dataset(root, train=True)
        except RuntimeError:  # torchvision raises this when files are missing
            _fetch(name, dataset, root=root, megabytes=megabytes, download=download)
            train = dataset(root, train=True)
        test = dataset(root, train=False)
    except (AssertionError, EOFError, IndexError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"the files of {name} in {root} are damaged: delete them and download them again") from error
    class_names = tuple(str(label) for label in train.classes)
    return ImageData(name, _split(train), _split(test), class_names, mean, std, crop, flip)


def _split(dataset: Any) -> Images:
    array = dataset.data.numpy() if isinstance(dataset.data, torch.Tensor) else dataset.data
    return Images(as_pixels(array), torch.as_tensor(dataset.targets).long())


def _fetch(name: str, dataset: Any, *, root: Path, megabytes: int, download: bool) -> None:
    other_ways = (
        f"put its files (or the archive from its home page) into {root}, name another folder with data.root=<folder>, "
        "or use your own pictures with data=image_folder"
    )
    archive = next((path for path in _archives(dataset, root) if path.is_file()), None)
    if not download:
        unpack = f", where {archive.name} is not unpacked yet," if archive else ""
        raise FileNotFoundError(f"{name} was not found in {root}{unpack} and data.download is off: {other_ways}")
    origin = getattr(dataset, "url", None) or dataset.mirrors[0]
    print(f"{name} is not in {root}: downloading about {megabytes} MB from {origin}", file=sys.stderr, flush=True)
    try:
        root.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(root).free < 3 * megabytes * 2**20:
            raise OSError(f"{root} has less than {3 * megabytes} MB free, and the archive and its files need that much")
        dataset(root, train=True, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if archive:
            raise OSError(
                f"{archive} is damaged and could not be downloaded again ({reason}): delete it, and {other_ways}"
            ) from error
        raise OSError(f"{name} is not in {root} and could not be downloaded ({reason}): {other_ways}") from error


def _archives(dataset: Any, root: Path) -> list[Path]:
    """Where torchvision keeps what it downloads for ``dataset``."""
    if hasattr(dataset, "filename"):
        return [root / dataset.filename]
    return [root / dataset.__name__ / "raw" / name for name, _ in dataset.resources]


def _check_synthetic(num_classes: int, num_images: int, channels: int, side: int) -> None:
    """Raise ValueError if the images do not fit into the memory: ten bytes a pixel, with their noise."""
    half, images = memory() / 20, 1.2 * num_images + num_classes
    number, fitting = int(half / (1.2 * channels * side**2)), int((half / (channels * images)) ** 0.5)
    remedy = "lower data.num_classes, data.num_images or data.channels"
    if number >= 2 * num_classes:
        remedy = f"data.num_images={number} fits"
    elif fitting:
        remedy = f"data.image_size={fitting} fits"
    what = f"{num_images:,} synthetic images of {channels}x{side}x{side}"
    check_memory(10 * channels * side**2 * images, what=what, remedy=remedy)


def _synthetic(*, num_classes: int, num_images: int, channels: int, image_size: int) -> ImageData:
    """Noise around one random picture per class: learnable, instant, any shape. For tests and timing only."""
    if num_classes < 2 or num_images < num_classes or channels < 1:
        raise ValueError(
            "synthetic images need data.num_classes of at least 2, data.num_images of at least data.num_classes and "
            f"data.channels of at least 1, got {num_classes}, {num_images} and {channels}"
        )
    _check_synthetic(num_classes, num_images, channels, image_size)
    generator = np.random.Generator(np.random.Philox(key=np.array([1, 0x6D7074], dtype=np.uint64)))
    pictures = generator.integers(64, 192, (num_classes, channels, image_size, image_size))
    splits = []
    for number in (num_images, max(num_classes, num_images // 5)):
        labels = np.arange(number) % num_classes
        noise = generator.integers(-64, 64, (number, channels, image_size, image_size))
        splits.append(Images(torch.from_numpy((pictures[labels] + noise).astype(np.uint8)), torch.from_numpy(labels)))
    mean, std = measure_mean_std(splits[0].pixels)
    train, test = splits
    return ImageData("synthetic", train, test, default_names(num_classes), mean, std, crop=0, flip=False)
