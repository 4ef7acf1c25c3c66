"""A folder of pictures, one folder a class: decoded once, in parallel, and kept as one memory-mapped array.

    ROOT/train/<class>/*.png     ROOT/test/<class>/*.png  or  ROOT/val/<class>/*.png

The cache is keyed by folder and size and holds a checksum of the listing (every file's name, size and time of change):
when a file is added, removed or changed it is made anew. Class names are the folder names, in sorted order.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from mpt.data.images import ImageData, Images, measured_mean_std
from mpt.files import write_atomically

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def load_folder(root: Path, *, image_size: int | None, cache: str | Path | None, progress: bool = True) -> ImageData:
    """The pictures below ``root`` as RGB in memory; augmented by a crop of an eighth of their side, and a flip.

    Args:
        root: folder with ``train`` and ``test`` (or ``val``).
        image_size: side of the squares to which pictures are resized (shorter side, then centre crop); None if all
            have one size already.
        cache: folder of the decoded arrays, ``~/.cache/mpt`` by default.

    Raises:
        FileNotFoundError: no such folder, or a split without pictures.
        ValueError: fewer than two classes, a class that only one split has, a broken picture, unequal sizes.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no image folder at {root}: data.root must hold train/<class>/ and test/<class>/"
        )
    test_folder = next((root / split for split in ("test", "val") if (root / split).is_dir()), None)
    if not (root / "train").is_dir() or test_folder is None:
        raise FileNotFoundError(f"the image folder {root} must hold train/<class>/... and test/<class>/... (or val/)")
    class_names = _class_names(root / "train")
    if extra := sorted(set(_class_names(test_folder)) - set(class_names)):
        raise ValueError(f"the image folder {root} has a class {extra[0]!r} in {test_folder.name}/ that train/ has not")
    cache_folder = Path(cache).expanduser() if cache else Path.home() / ".cache" / "mpt"
    train, mean, std = _split(root / "train", class_names, image_size, cache_folder, progress=progress)
    size = train.pixels.shape[-1]
    test, _, _ = _split(test_folder, class_names, image_size, cache_folder, progress=progress, side=size)
    return ImageData("image_folder", train, test, class_names, mean, std, crop=size // 8, flip=True)


def _class_names(split: Path) -> tuple[str, ...]:
    found = tuple(sorted(folder.name for folder in split.iterdir() if folder.is_dir()))
    if split.name == "train" and len(found) < 2:
        raise ValueError(f"{split} must hold one folder for each of at least two classes, it has {len(found)}")
    return found


def _split(
    folder: Path,
    class_names: tuple[str, ...],
    image_size: int | None,
    cache: Path,
    *,
    progress: bool,
    side: int | None = None,
) -> tuple[Images, tuple[float, ...], tuple[float, ...]]:
    files, labels = _listing(folder, class_names)
    key = hashlib.sha256(f"{folder.resolve()}|{image_size}|{side}".encode()).hexdigest()[:16]
    array_path, about_path = cache / f"{key}.npy", cache / f"{key}.json"
    checksum = _checksum(folder, files)
    about = _read_about(about_path, checksum) if array_path.is_file() else None
    if about is None:
        decoded = _decoded(folder, files, image_size, side=side, progress=progress)
        mean, std = measured_mean_std(torch.from_numpy(decoded))
        about = {"folder": str(folder.resolve()), "checksum": checksum, "mean": mean, "std": std}
        _write_cache(cache, array_path, about_path, decoded, about)
    array = np.load(array_path, mmap_mode="c")  # copy on write: torch wants a writable array, the file stays as it is
    pixels = torch.from_numpy(array)
    return Images(pixels, torch.tensor(labels)), tuple(about["mean"]), tuple(about["std"])


def _listing(folder: Path, class_names: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    files, labels = [], []
    for label, name in enumerate(class_names):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
        if not found and folder.name == "train":
            raise ValueError(f"the class folder {folder / name} holds no pictures ({' '.join(sorted(EXTENSIONS))})")
        files += found
        labels += [label] * len(found)
    if not files:
        raise FileNotFoundError(f"{folder} holds no pictures ({' '.join(sorted(EXTENSIONS))})")
    return files, labels


def _checksum(folder: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file.relative_to(folder)}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read_about(path: Path, checksum: str) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and about.get("checksum") == checksum else None


def _write_cache(cache: Path, array_path: Path, about_path: Path, pixels: np.ndarray, about: dict[str, Any]) -> None:
    part = array_path.with_suffix(f".{os.getpid()}.part")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        about_path.unlink(missing_ok=True)  # the array of before must not be taken for this one
        with part.open("wb") as file:
            np.lib.format.write_array(file, pixels)
        part.replace(array_path)
        write_atomically(about_path, json.dumps(about))
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(
            f"the decoded pictures cannot be kept in {cache} ({error}): name a folder with data.cache="
        ) from error


def _decoded(
    folder: Path, files: list[Path], image_size: int | None, *, side: int | None, progress: bool
) -> np.ndarray:
    """All pictures as uint8 (N, 3, S, S), decoded by a thread a core."""
    from rich.progress import track

    side = image_size or side or _common_side(files[0])
    pixels = np.empty((len(files), 3, side, side), dtype=np.uint8)

    def decode(some: range) -> None:  # many at a time: handing over one small picture costs more than decoding it
        for index in some:
            pixels[index] = _picture(files[index], side, resize=image_size is not None).transpose(2, 0, 1)

    print(f"decoding {len(files):,} pictures of {folder}, once", file=sys.stderr, flush=True)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        parts = [range(start, min(start + 64, len(files))) for start in range(0, len(files), 64)]
        for _ in track(
            pool.map(decode, parts),
            "decoding",
            total=len(parts),
            disable=not (progress and sys.stderr.isatty()),
            transient=True,
        ):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return pixels


def _common_side(file: Path) -> int:
    with _open(file) as picture:
        width, height = picture.size
    if width != height:
        raise ValueError(f"{file} is {width}x{height}, not a square: choose a side with data.image_size=")
    return width


def _open(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} is not a readable picture: remove or replace it") from error


def _picture(file: Path, side: int, *, resize: bool) -> np.ndarray:
    """One picture as uint8 (side, side, 3)."""
    with _open(file) as picture:
        if picture.mode.startswith(("I", "F")):
            raise ValueError(f"{file} has more than 8 bits a channel ({picture.mode}): convert it to 8 bits")
        try:
            rgb = picture.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{file} is a broken picture ({error}): remove or replace it") from error
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
