"""CIFAR-10-C and CIFAR-100-C: the test images corrupted in several ways (Hendrycks and Dietterich 2019).

The public archives, https://zenodo.org/records/2535967 and 3555552, hold one file per corruption:

    ROOT/<corruption>.npy    uint8 (5 N, 32, 32, 3): severity 1 of all N test images, then 2 ... 5
    ROOT/labels.npy          integers (5 N,): the classes of the N images, five times
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mpt.data.images import Images

SEVERITIES = 5
STANDARD = (  # published means are over these 15; the archives hold 4 more
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)


def corruptions(root: str | Path) -> Iterator[tuple[str, int, Images]]:
    """Yield (corruption, severity 1 to 5, images) for every file in ``root``, the standard corruptions first.

    All files are checked before the first images are returned. The pixels stay memory-mapped, so that memory holds one
    severity at a time.

    Raises:
        FileNotFoundError: there is no such folder, no ``labels.npy`` in it, or no corruption.
        ValueError: a file is damaged, or its shape does not match ``labels.npy``.
    """
    root = Path(root).expanduser()
    if not (root / "labels.npy").is_file():
        raise FileNotFoundError(
            f"there is no labels.npy in {root}: name the folder of CIFAR-10-C or CIFAR-100-C, which holds "
            "<corruption>.npy and labels.npy"
        )
    labels = _labels(root / "labels.npy")
    names = {path.stem for path in root.glob("*.npy")} - {"labels"}
    if not names:
        raise FileNotFoundError(f"{root} holds labels.npy but no <corruption>.npy, such as fog.npy: add these files")
    order = [*(name for name in STANDARD if name in names), *sorted(names - set(STANDARD))]
    return _severities({name: _pixels(root / f"{name}.npy", len(labels)) for name in order}, labels)


def _severities(arrays: dict[str, np.ndarray], labels: np.ndarray) -> Iterator[tuple[str, int, Images]]:
    count = len(labels) // SEVERITIES
    for name, array in arrays.items():
        for severity in range(1, SEVERITIES + 1):
            part = slice((severity - 1) * count, severity * count)
            pixels = torch.from_numpy(array[part]).permute(0, 3, 1, 2)
            yield name, severity, Images(pixels, torch.from_numpy(labels[part].astype(np.int64)))


def _labels(path: Path) -> np.ndarray:
    labels = _open_array(path)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) % SEVERITIES or not len(labels):
        raise ValueError(
            f"{path} must hold the classes of the test images {SEVERITIES} times, as integers (5 N,), "
            f"got {_describe(labels)}"
        )
    if (least := int(labels.min())) < 0:
        raise ValueError(f"{path} holds the label {least}, and classes count from 0: download it again")
    return labels


def _pixels(path: Path, count: int) -> np.ndarray:
    array = _open_array(path)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[::3] != (count, 3) or array.shape[1] != array.shape[2]:
        raise ValueError(
            f"{path} must hold one square RGB image for each of {count} labels, as uint8 ({count}, S, S, 3), "
            f"got {_describe(array)}"
        )
    return array


def _open_array(path: Path) -> np.ndarray:
    try:  # copy on write: torch needs a writable array, and the file must not change
        return np.asarray(np.load(path, mmap_mode="c"))
    except (EOFError, ValueError) as error:  # truncated, or not an array
        raise ValueError(f"{path} is damaged: download it again") from error


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"
