"""Fixed facts about the known data sets: how many images, of which shape, in how many classes. Imports nothing."""

from __future__ import annotations

from typing import NamedTuple


class Facts(NamedTuple):
    """Size and shape of a data set.

    Attributes:
        images: number of training images.
        channels: channels of an image.
        side: side of an image in pixels, after resizing for ImageNet.
        classes: number of classes.
    """

    images: int
    channels: int
    side: int
    classes: int


FOLDERS = ("image_folder", "imagenet")  # data sets of pictures in class folders
_OF_FOLDERS = ("stream", "cache", "resized_crop", "test_size")


def unused_options(name: str) -> dict[str, str]:
    """The options of :func:`mpt.data.load` that have no effect with the data set ``name``, and with which they have."""
    options = {} if name in FOLDERS else dict.fromkeys(_OF_FOLDERS, "data=image_folder or imagenet")
    return options | ({"root": "data that are read from files"} if name in ("digits", "synthetic") else {})


FACTS = {
    "cifar10": Facts(50_000, 3, 32, 10),
    "cifar100": Facts(50_000, 3, 32, 100),
    "mnist": Facts(60_000, 1, 28, 10),
    "fashion_mnist": Facts(60_000, 1, 28, 10),
    "digits": Facts(1_438, 1, 8, 10),
    "imagenet": Facts(1_281_167, 3, 224, 1000),
}
