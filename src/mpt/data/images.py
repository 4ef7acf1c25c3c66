"""A whole data set in memory: uint8 images, labels, and what a network must know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


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


@dataclass(frozen=True)
class ImageData:
    """Training and test images, perhaps held-out ones, and how they are augmented and normalised.

    Attributes:
        name: of the data set.
        train, test: the two splits.
        val: training images held out, or None.
        class_names: in the order of the labels.
        mean, std: per channel, in [0, 1], of the training images or as published; pixels / 255 are normalised by them.
        crop: padding of the random crop in pixels, 0 for none.
        flip: flip half of the training images left to right.
    """

    name: str
    train: Images
    test: Images
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int
    flip: bool
    val: Images | None = None

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return int(self.train.pixels.shape[1])

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.train.pixels.shape[-1])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def measured_mean_std(pixels: Tensor, *, chunk: int = 4096) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images (N, C, H, W), in units of [0, 1]."""
    total = torch.zeros(pixels.shape[1], dtype=torch.float64)
    squares, count = torch.zeros_like(total), pixels[:, 0].numel()
    for part in torch.split(pixels, chunk):
        values = part.float() / 255
        total += values.sum(dim=(0, 2, 3), dtype=torch.float64)
        squares += values.square().sum(dim=(0, 2, 3), dtype=torch.float64)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt().clamp_min(1 / 255)  # a black channel has no spread
    return tuple(mean.tolist()), tuple(std.tolist())


def resized(pixels: Tensor, *, image_size: int | None, chunk: int = 1024) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (N, C, S, S), bilinear with antialiasing; as they are if ``image_size`` is None."""
    if image_size is None or pixels.shape[-2:] == (image_size, image_size):
        return pixels
    parts = [
        F.interpolate(part.float(), (image_size, image_size), mode="bilinear", antialias=True)
        .round()
        .clamp(0, 255)
        .byte()
        for part in torch.split(pixels, chunk)
    ]
    return torch.cat(parts)


def held_out(data: ImageData, *, val_size: float, train_size: int | None) -> ImageData:
    """``data`` with ``val_size`` training images held out and the rest cut to ``train_size``.

    Args:
        val_size: a number of images (1 or more) or a fraction of them (below 1); 0 holds out none.
        train_size: how many training images are left at the most, None for all.

    Both are drawn class by class, in proportion, by a fixed stream that no seed changes: runs that differ in their seed
    see the same images.
    """
    n = len(data.train)
    if val_size > 1 and val_size != int(val_size):
        raise ValueError(f"data.val_size is a number of images, or a fraction below 1, got {val_size:g}")
    held = round(val_size * n) if val_size < 1 else int(val_size)
    wanted = n - held if train_size is None else train_size
    if held < 0 or wanted < 1 or held + wanted > n:
        raise ValueError(
            f"data.val_size and data.train_size must fit in the {n} training images, got {val_size:g} and {train_size}"
        )
    order = _stratified_order(data.train.labels)
    val = data.train.take(order[:held].sort().values) if held else None
    train = data.train if wanted == n else data.train.take(order[held : held + wanted].sort().values)
    return replace(data, train=train, val=val)


def _stratified_order(labels: Tensor) -> Tensor:
    """A permutation of all images in which every stretch has the classes in about their proportion; int64 (N,)."""
    generator = np.random.Generator(np.random.Philox(key=np.array([0, 0x6D7074], dtype=np.uint64)))
    place = np.empty(len(labels))
    classes = labels.numpy()
    for label in np.unique(classes):
        members = generator.permutation(np.flatnonzero(classes == label))
        place[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return torch.from_numpy(np.argsort(place, kind="stable"))


def split_once(pixels: Tensor, labels: Tensor, *, test_fraction: float) -> tuple[Images, Images]:
    """(train, test) of a data set that comes in one piece, class by class in proportion, always the same split."""
    order = _stratified_order(labels)
    images, test_size = Images(pixels, labels), round(test_fraction * len(labels))
    return images.take(order[test_size:].sort().values), images.take(order[:test_size].sort().values)


def names(count: int) -> tuple[str, ...]:
    """Class names of a data set that has none: ``0``, ``1`` ..."""
    return tuple(str(label) for label in range(count))


def as_pixels(array: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """uint8 (N, H, W) or (N, H, W, C) -> uint8 tensor (N, C, H, W), contiguous."""
    tensor = torch.from_numpy(np.asarray(array))
    tensor = tensor.unsqueeze(1) if tensor.dim() == 3 else tensor.permute(0, 3, 1, 2)
    return tensor.contiguous()
