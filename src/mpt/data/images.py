"""A data set: uint8 images in memory or in files, their labels, and what a network must know about them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mpt.data.pictures import central_crop, random_crop, square


@dataclass(frozen=True)
class Images:
    """Images and their classes.

    Attributes:
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,), 0 to classes - 1.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Images:
        """The images at ``indices``, int64 (M,)."""
        return Images(self.pixels[indices], self.labels[indices])

    def read(self, indices: np.ndarray, *, seeds: Sequence[int] | None = None) -> Tensor:
        """The pixels of the images at ``indices``, uint8 (B, H, W, C); ``seeds`` is unused, since nothing is drawn."""
        return self.pixels[torch.from_numpy(indices)].permute(0, 2, 3, 1).contiguous()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        return tuple(self.pixels.shape[1:])  # type: ignore[return-value]


@dataclass(frozen=True)
class Files:
    """Pictures that stay on disk. Worker processes decode them as RGB when a batch needs them.

    Attributes:
        paths: bytes (N,), one fixed-width array, which worker processes can share, unlike a list.
        labels: int64 (N,), 0 to classes - 1.
        side: side of the square images read from the files, in pixels.
        resize: False if every picture must already have this side.
        resized_crop: crop a random area and shape in training; in evaluation the centre, 7/8 of the shorter side.
    """

    paths: np.ndarray
    labels: Tensor
    side: int
    resize: bool = True
    resized_crop: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Files:
        """The pictures at ``indices``, int64 (M,)."""
        return replace(self, paths=self.paths[indices.numpy()], labels=self.labels[indices])

    def read(self, indices: np.ndarray, *, seeds: Sequence[int] | None = None) -> Tensor:
        """The pixels of the pictures at ``indices``, uint8 (B, side, side, 3).

        With ``resized_crop`` and ``seeds``, one per picture, each crop is drawn from its seed.
        """
        out = np.empty((len(indices), self.side, self.side, 3), dtype=np.uint8)
        for place, index in enumerate(indices):
            path = Path(os.fsdecode(self.paths[index]))
            if not self.resized_crop:
                out[place] = square(path, self.side, resize=self.resize)
            elif seeds is None:
                out[place] = central_crop(path, self.side)
            else:
                torch.default_generator.manual_seed(seeds[place])
                out[place] = random_crop(path, self.side)
        return torch.from_numpy(out)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        return 3, self.side, self.side


@dataclass(frozen=True)
class ImageData:
    """Training and test images, optionally a validation split, and how they are augmented and normalised.

    Attributes:
        name: name of the data set.
        train, test: the two splits.
        val: training images held out, or None.
        class_names: class names in the order of the labels.
        mean, std: per channel, in [0, 1], measured on the training images or as published; they normalise pixels / 255.
        crop: padding of the random crop in pixels, 0 for none.
        flip: flip half of the training images left to right.
        augmix: add two AugMix views of every training image (width 3, depth 1 to 3, severity 3).
        noise_std: standard deviation of Gaussian noise on training images, in units of [0, 1]; 0 for none.
        noise_probability: probability that a training image gets noise.
        workers: processes that read and augment files for each training process; None chooses by the cores.
    """

    name: str
    train: Images | Files
    test: Images | Files
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int
    flip: bool
    val: Images | Files | None = None
    augmix: bool = False
    noise_std: float = 0.0
    noise_probability: float = 1.0
    workers: int | None = None

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.shape[0]

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return self.train.shape[-1]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def about(self) -> dict[str, Any]:
        """What a ticket says of its data: ``mpt.Ticket.from_network(net, **data.about())``."""
        return {
            "data": {"name": self.name, "image_size": self.image_size, "channels": self.channels},
            "class_names": list(self.class_names),
            "normalization": {"mean": list(self.mean), "std": list(self.std)},
        }


def measure_mean_std(pixels: Tensor, *, chunk: int = 4096) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images (N, C, H, W), in units of [0, 1]."""
    return combine_moments(moments(part) for part in torch.split(pixels, chunk))


def moments(pixels: Tensor) -> tuple[Tensor, Tensor, int]:
    """Sums per channel of x = pixels / 255 and of x^2, float64 (C,), and pixels per channel, for uint8 (N, C, H, W)."""
    values = pixels.contiguous().float() / 255
    total = values.sum(dim=(0, 2, 3), dtype=torch.float64)
    return total, values.square().sum(dim=(0, 2, 3), dtype=torch.float64), pixels[:, 0].numel()


def combine_moments(parts: Iterable[tuple[Tensor, Tensor, int]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel from the :func:`moments` of all parts of the images."""
    total, squares, count = (sum(column) for column in zip(*parts, strict=True))
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt().clamp_min(1 / 255)  # a black channel has no spread
    return tuple(mean.tolist()), tuple(std.tolist())


def resize(images: Images | Files, *, image_size: int | None, chunk: int = 1024) -> Images | Files:
    """Resize images to (C, S, S), bilinear with antialiasing; return files, or all if ``image_size`` is None, as is."""
    if isinstance(images, Files) or image_size is None or images.shape[1:] == (image_size, image_size):
        return images
    parts = [
        F.interpolate(part.float(), (image_size, image_size), mode="bilinear", antialias=True)
        .round()
        .clamp(0, 255)
        .byte()
        for part in torch.split(images.pixels, chunk)
    ]
    return Images(torch.cat(parts), images.labels)


def hold_out(data: ImageData, *, val_size: float, train_size: int | None) -> ImageData:
    """Hold out ``val_size`` training images of ``data`` and reduce the rest to ``train_size``.

    Args:
        val_size: a number of images (1 or more) or a fraction of them (below 1); 0 holds out none.
        train_size: maximum number of training images that remain, None for all.

    Both are drawn class by class, in proportion, from a fixed stream: runs with different seeds see the same images.
    """
    n = len(data.train)
    if val_size > 1 and val_size != int(val_size):
        raise ValueError(f"data.val_size is a number of images, or a fraction below 1, got {val_size:g}")
    num_val = round(val_size * n) if val_size < 1 else int(val_size)
    if val_size > 0 and num_val == 0:
        raise ValueError(
            f"data.val_size={val_size:g} holds out none of the {n} training images: "
            "choose a larger fraction, or a number of images"
        )
    if not 0 <= num_val < n:
        raise ValueError(f"data.val_size must leave some of the {n} training images, got {val_size:g}")
    num_train = n - num_val if train_size is None else min(n - num_val, train_size)
    if num_train < 1:
        raise ValueError(f"data.train_size must be at least 1, got {train_size}")
    order = stratified_order(data.train.labels)
    val = data.train.take(order[:num_val].sort().values) if num_val else None
    train = data.train if num_train == n else data.train.take(order[num_val : num_val + num_train].sort().values)
    return replace(data, train=train, val=val)


def stratified_order(labels: Tensor) -> Tensor:
    """A permutation, int64 (N,), that mixes the classes in about their proportion over every stretch of images."""
    generator = np.random.Generator(np.random.Philox(key=np.array([0, 0x6D7074], dtype=np.uint64)))
    place = np.empty(len(labels))
    classes = labels.numpy()
    for label in np.unique(classes):
        members = generator.permutation(np.flatnonzero(classes == label))
        place[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return torch.from_numpy(np.argsort(place, kind="stable"))


def split_once(pixels: Tensor, labels: Tensor, *, test_fraction: float) -> tuple[Images, Images]:
    """Split a data set without a test split into (train, test), class by class in proportion, always the same way."""
    order = stratified_order(labels)
    images, test_size = Images(pixels, labels), round(test_fraction * len(labels))
    return images.take(order[test_size:].sort().values), images.take(order[:test_size].sort().values)


def default_names(count: int) -> tuple[str, ...]:
    """Class names for a data set without any: ``0``, ``1`` ..."""
    return tuple(str(label) for label in range(count))


def as_pixels(array: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """Convert uint8 (N, H, W) or (N, H, W, C) to a contiguous uint8 tensor (N, C, H, W)."""
    tensor = torch.from_numpy(np.asarray(array))
    tensor = tensor.unsqueeze(1) if tensor.dim() == 3 else tensor.permute(0, 3, 1, 2)
    return tensor.contiguous()
