"""Read one picture from its file as a square RGB array of uint8. Many threads or processes do this at once."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mpt.files import LFS, kind_of

MAX_PIXELS = 2**27  # of one picture: a file of a few kB can claim any size, and each thread decodes one at a time
MAX_RESIZED = 2**24  # of one picture whose shorter side is resized: a line of 1 x 20,000,000 would become 5 GB
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # of PIL, for two thirds of that
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
    rgb = decode(file)
    if not resize and rgb.size != (side, side):
        raise ValueError(
            f"{file} is {rgb.size[0]}x{rgb.size[1]} and other pictures are {side}x{side}: "
            "choose one side for all with data.image_size="
        )
    return fit_square(rgb, side)


def fit_square(picture: Image.Image, side: int) -> np.ndarray:
    """Resize the shorter side and crop the centre: uint8 (side, side, 3), or (side, side) if the picture is grey."""
    if picture.size != (side, side):
        picture = middle(picture, side)
        scale = side / min(picture.size)
        width, height = (max(side, round(length * scale)) for length in picture.size)
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))
    return np.asarray(picture)


def middle(picture: Image.Image, side: int) -> Image.Image:
    """The middle of a picture so long and narrow that it would fill the memory once its shorter side is ``side``."""
    box = middle_box(picture.size, side)
    return picture if box is None else picture.crop(box)


def middle_box(size: tuple[int, int], side: int) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the middle that :func:`middle` takes; None if a picture is resized whole."""
    shorter, longer = min(size), max(size)
    if side * side * longer <= MAX_RESIZED * shorter:
        return None
    width, height = (min(length, 8 * shorter) for length in size)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def central_crop(file: Path, side: int) -> np.ndarray:
    """Read the picture as uint8 (side, side, 3): resize its shorter side to 8/7 of ``side``, then crop the centre.

    This is the usual evaluation on ImageNet (256 for 224). ValueError if the picture cannot be read.
    """
    return fit_central_crop(decode(file), side)


def fit_central_crop(picture: Image.Image, side: int) -> np.ndarray:
    """Resize and crop as :func:`central_crop` does."""
    from torchvision.transforms.v2 import functional as transforms

    resized = transforms.resize(middle(picture, side), [round(side * 256 / 224)])
    return np.asarray(transforms.center_crop(resized, [side]))


def random_crop(file: Path, side: int) -> np.ndarray:
    """Read the picture as uint8 (side, side, 3): crop 8 to 100 % of its area at a ratio of 3/4 to 4/3, then resize.

    This is the usual augmentation on ImageNet. The crop is drawn from torch's generator. ValueError if the picture
    cannot be read.
    """
    from torchvision.transforms import v2

    return np.asarray(v2.RandomResizedCrop(side)(decode(file)))


def _open(file: Path) -> Image.Image:
    """Open the picture; ValueError if it cannot be read, is no regular file, or is larger than any camera's."""
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is a folder, a pipe or a device and no picture: remove it")
    try:
        picture = Image.open(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no picture at {file}") from error
    except PermissionError as error:
        raise OSError(f"the picture {file} cannot be read ({error.strerror}): make it readable") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(_too_large(str(file), "more")) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        if (kind := kind_of(file)) == LFS:
            raise ValueError(f"{file} is {kind}") from error
        raise ValueError(
            f"{file} is {'empty' if not file.stat().st_size else 'not a readable picture'}: delete or replace it"
        ) from error
    if (pixels := picture.size[0] * picture.size[1]) > MAX_PIXELS:
        picture.close()
        raise ValueError(_too_large(str(file), f"{pixels:,}"))
    return picture


def _too_large(name: str, pixels: str) -> str:
    return (
        f"{name} has {pixels} pixels, where {MAX_PIXELS:,} are the most, because it would fill the memory: shrink "
        "it, or remove it"
    )


def decode(file: Path, *, mode: str = "RGB") -> Image.Image:
    """Read the picture in one of PIL's modes, ``RGB`` or ``L`` (grey); ValueError if it cannot be read."""
    with _open(file) as picture:
        return convert(picture, mode=mode, name=str(file))


def convert(picture: Image.Image, *, mode: str, name: str) -> Image.Image:
    """Convert ``picture``, called ``name`` in errors, to one of PIL's modes; ValueError if it is deep or broken.

    Of an animation this is the first picture. Transparency is dropped, and the rotation that a camera notes (EXIF) is
    not applied, as in torchvision.
    """
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"{name} has more than 8 bits per channel ({picture.mode}): convert it to 8 bits")
    try:
        if picture.mode == "P" and "transparency" in picture.info:
            picture = picture.convert("RGBA")  # otherwise PIL warns of what is dropped
        return picture.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is a broken picture ({error}): delete or replace it") from error
