"""One picture from its file: RGB, a square, uint8. Run by many threads or processes at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def common_side(file: Path) -> int:
    """Side of the square picture in ``file``, in pixels; ValueError if it is no square."""
    with _open(file) as picture:
        width, height = picture.size
    if width != height:
        raise ValueError(f"{file} is {width}x{height}, not a square: choose a side with data.image_size=")
    return width


def square(file: Path, side: int, *, resize: bool) -> np.ndarray:
    """The picture as uint8 (side, side, 3): its shorter side resized, then its centre.

    Raises:
        ValueError: it cannot be read, or has another size and ``resize`` is off.
    """
    rgb = _rgb(file)
    if not resize and rgb.size != (side, side):
        raise ValueError(
            f"{file} is {rgb.size[0]}x{rgb.size[1]} where others are {side}x{side}: choose data.image_size="
        )
    if rgb.size != (side, side):
        scale = side / min(rgb.size)
        width, height = (max(side, round(length * scale)) for length in rgb.size)
        left, top = (width - side) // 2, (height - side) // 2
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))
    return np.asarray(rgb)


def central_crop(file: Path, side: int) -> np.ndarray:
    """The picture as uint8 (side, side, 3): its shorter side resized to 8/7 of ``side`` (256 for 224), then its centre.

    As ImageNet is evaluated; ValueError if it cannot be read.
    """
    from torchvision.transforms.v2 import functional as transforms

    resized = transforms.resize(_rgb(file), [round(side * 256 / 224)])
    return np.asarray(transforms.center_crop(resized, [side]))


def random_crop(file: Path, side: int) -> np.ndarray:
    """The picture as uint8 (side, side, 3): a crop of 8 to 100 % of its area and of ratio 3/4 to 4/3, resized.

    As ImageNet is trained on; drawn from torch's generator. ValueError if it cannot be read.
    """
    from torchvision.transforms import v2

    return np.asarray(v2.RandomResizedCrop(side)(_rgb(file)))


def _open(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is not a readable picture: remove or replace it") from error


def _rgb(file: Path) -> Image.Image:
    with _open(file) as picture:
        if picture.mode.startswith(("I", "F")):
            raise ValueError(f"{file} has more than 8 bits a channel ({picture.mode}): convert it to 8 bits")
        try:
            return picture.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{file} is a broken picture ({error}): remove or replace it") from error
