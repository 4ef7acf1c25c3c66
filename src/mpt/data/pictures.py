"""Read one picture from its file as a square RGB array of uint8. Many threads or processes do this at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def common_side(file: Path) -> int:
    """Side of the square picture in ``file``, in pixels; ValueError if it is not square."""
    with _open(file) as picture:
        width, height = picture.size
    if width != height:
        raise ValueError(f"{file} is {width}x{height}, which is not square: choose a side with data.image_size=")
    return width


def square(file: Path, side: int, *, resize: bool) -> np.ndarray:
    """Read the picture as uint8 (side, side, 3): resize its shorter side, then crop the centre.

    Raises:
        ValueError: the picture cannot be read, or has another size and ``resize`` is off.
    """
    rgb = _rgb(file)
    if not resize and rgb.size != (side, side):
        raise ValueError(
            f"{file} is {rgb.size[0]}x{rgb.size[1]} and other pictures are {side}x{side}: "
            "choose one side for all with data.image_size="
        )
    if rgb.size != (side, side):
        scale = side / min(rgb.size)
        width, height = (max(side, round(length * scale)) for length in rgb.size)
        left, top = (width - side) // 2, (height - side) // 2
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))
    return np.asarray(rgb)


def central_crop(file: Path, side: int) -> np.ndarray:
    """Read the picture as uint8 (side, side, 3): resize its shorter side to 8/7 of ``side``, then crop the centre.

    This is the usual evaluation on ImageNet (256 for 224). ValueError if the picture cannot be read.
    """
    from torchvision.transforms.v2 import functional as transforms

    resized = transforms.resize(_rgb(file), [round(side * 256 / 224)])
    return np.asarray(transforms.center_crop(resized, [side]))


def random_crop(file: Path, side: int) -> np.ndarray:
    """Read the picture as uint8 (side, side, 3): crop 8 to 100 % of its area at a ratio of 3/4 to 4/3, then resize.

    This is the usual augmentation on ImageNet. The crop is drawn from torch's generator. ValueError if the picture
    cannot be read.
    """
    from torchvision.transforms import v2

    return np.asarray(v2.RandomResizedCrop(side)(_rgb(file)))


def _open(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is not a readable picture: delete or replace it") from error


def _rgb(file: Path) -> Image.Image:
    with _open(file) as picture:
        if picture.mode.startswith(("I", "F")):
            raise ValueError(f"{file} has more than 8 bits per channel ({picture.mode}): convert it to 8 bits")
        try:
            return picture.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{file} is a broken picture ({error}): delete or replace it") from error
