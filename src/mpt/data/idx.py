"""The files of MNIST and Fashion-MNIST as their home pages and Debian's packages hold them: arrays of bytes, packed.

An IDX file is two zero bytes, the type (8: unsigned bytes), the number of axes, their lengths as big-endian 32-bit
numbers, and the bytes themselves.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpt.data.facts import FACTS

_BYTES = b"\x00\x00\x08"  # start of a file of unsigned bytes
_MOST = 2**30  # bytes that are read of one
_DAMAGED = "{} is damaged: delete it and download it again"


def find_files(folder: Path, names: Sequence[str]) -> list[Path] | None:
    """The files of these ``names`` that lie in ``folder`` itself, packed (``.gz``) or not; None if one is missing."""
    names = [name.removesuffix(".gz") for name in names]
    found = [next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None) for name in names]
    files = [path for path in found if path is not None]
    return files if len(files) == len(names) else None


def read_splits(files: Sequence[Path], name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images uint8 (n, side, side) and labels (n,) for training and for testing, from the four files of ``name``.

    Raises:
        OSError: a file cannot be read.
        ValueError: they are not the files of this data set.
    """
    arrays, facts = [read_idx(path) for path in files], FACTS[name]
    splits = list(zip(arrays[::2], arrays[1::2], strict=True))
    for images, labels in splits:
        if images.shape != (labels.size, facts.side, facts.side) or labels.ndim != 1 or (labels >= facts.classes).any():
            raise ValueError(f"the files in {files[0].parent} are not those of {name}: name another folder")
    return splits


def read_idx(path: Path) -> np.ndarray:
    """The array in ``path``, uint8.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MOST + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(_DAMAGED.format(path)) from error
    axes = content[3] if len(content) > 3 else 0
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    start = 4 + 4 * axes
    if not content.startswith(_BYTES) or len(content) > _MOST or len(content) != start + math.prod(shape):
        raise ValueError(_DAMAGED.format(path))
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
