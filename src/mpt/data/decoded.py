"""What is kept of a folder of pictures: all of them decoded, as one memory-mapped array; or their mean and deviation.

Each is keyed by folder and size and holds a checksum of the listing: when a picture is added, removed or changed it is
made anew. The array is (N, H, W, 3), as batches are made of it: on the CPU it stays on disk and is read as it is needed
(``data.val_size`` and ``data.train_size`` copy the images that they take).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from mpt.data.images import Files, Images, mean_std_of, measured_mean_std, moments
from mpt.files import replacing, write_atomically

T = TypeVar("T")
Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation per channel, in [0, 1]
_PART = 64  # pictures at a time: handing over one small picture costs more than decoding it


def decoded(files: Files, folder: Path, checksum: str, *, cache: Path, progress: bool) -> tuple[Images, Normalization]:
    """The pictures of ``folder`` in memory, and their mean and standard deviation."""
    array_path, about_path = _paths(files, folder, "decoded", cache)
    about = _read_about(about_path, checksum) if array_path.is_file() else None
    if about is None:
        pixels = torch.empty((len(files), files.side, files.side, 3), dtype=torch.uint8)

        def decode(some: range) -> None:
            pixels[some.start : some.stop] = files.read(np.array(some))

        for _ in _in_parallel(decode, len(files), f"decoding {len(files):,} pictures of {folder}", progress=progress):
            pass
        about = _about(folder, checksum, measured_mean_std(pixels.permute(0, 3, 1, 2)))
        _keep(cache, about_path, about, array_path, pixels.numpy())
    array = np.load(array_path, mmap_mode="c")  # copy on write: torch wants a writable array, the file stays as it is
    return Images(torch.from_numpy(array).permute(0, 3, 1, 2), files.labels), (about["mean"], about["std"])


def measured(files: Files, folder: Path, checksum: str, *, cache: Path, progress: bool) -> Normalization:
    """Mean and standard deviation of the pictures of ``folder``: each is decoded once, and none kept."""
    _, about_path = _paths(files, folder, "measured", cache)
    about = _read_about(about_path, checksum)
    if about is None:

        def measure(some: range) -> tuple[torch.Tensor, torch.Tensor, int]:
            return moments(files.read(np.array(some)).permute(0, 3, 1, 2))

        what = f"measuring the mean of {len(files):,} pictures of {folder}"
        about = _about(folder, checksum, mean_std_of(_in_parallel(measure, len(files), what, progress=progress)))
        _keep(cache, about_path, about)
    return about["mean"], about["std"]


def _in_parallel(function: Callable[[range], T], count: int, what: str, *, progress: bool) -> Iterator[T]:
    """``function`` of every range of 64 pictures, by a thread a core, in order."""
    from rich.progress import track

    print(f"{what}, once", file=sys.stderr, flush=True)
    parts = [range(start, min(start + _PART, count)) for start in range(0, count, _PART)]
    quiet = not (progress and sys.stderr.isatty())
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from track(pool.map(function, parts), what, total=len(parts), disable=quiet, transient=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _paths(files: Files, folder: Path, what: str, cache: Path) -> tuple[Path, Path]:
    size = f"{files.side if files.resize else None}|{files.side}|{files.resized_crop}"
    key = hashlib.sha256(f"{what}|{folder.resolve()}|{size}".encode()).hexdigest()[:16]
    return cache / f"{key}.npy", cache / f"{key}.json"


def _about(folder: Path, checksum: str, normalization: Normalization) -> dict[str, Any]:
    mean, std = normalization
    return {"folder": str(folder.resolve()), "checksum": checksum, "mean": mean, "std": std}


def _read_about(path: Path, checksum: str) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(about, dict) or about.get("checksum") != checksum:
        return None
    return about | {"mean": tuple(about["mean"]), "std": tuple(about["std"])}


def _keep(
    cache: Path, about_path: Path, about: dict[str, Any], array_path: Path | None = None, pixels: Any = None
) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        about_path.unlink(missing_ok=True)  # the array of before must not be taken for this one
        if array_path is not None:
            with replacing(array_path) as file:
                np.lib.format.write_array(file, pixels)
        write_atomically(about_path, json.dumps(about))
    except OSError as error:
        raise OSError(
            f"what is kept of the pictures cannot be written to {cache} ({error}): name a folder with data.cache="
        ) from error
