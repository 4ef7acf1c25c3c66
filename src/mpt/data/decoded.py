"""The cache of a folder of pictures: all pictures decoded into one memory-mapped array, or their mean and deviation.

The key of an entry is the folder and the size. The entry stores a checksum of the listing, and is rebuilt when a
picture is added, removed or changed, or if one of its files is damaged; both are sealed (:mod:`mpt.files`). The array
is (N, H, W, 3), the layout of a batch. On the CPU it stays on disk and is read on demand; only ``data.val_size`` and
``data.train_size`` copy images, those they select.
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

from mpt.data.images import Files, Images, combine_moments, measure_mean_std, moments
from mpt.files import DamagedError, check_seal, read_sealed, replacing, write_atomically
from mpt.phases import counted
from mpt.schema import is_number, parse

T = TypeVar("T")
Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation per channel, in [0, 1]
_PART = 64  # pictures per task: handing over one small picture costs more than decoding it


def decode_folder(
    files: Files, folder: Path, checksum: str, *, cache: Path, progress: bool
) -> tuple[Images, Normalization]:
    """Load the decoded pictures of ``folder``, with their mean and standard deviation; decode them the first time."""
    array_path, about_path = _paths(files, folder, "decoded", cache)
    shape = len(files), files.side, files.side, 3
    about = _read_about(about_path, checksum)
    array = _read_array(array_path, shape) if about else None
    if about is None or array is None:
        pixels = torch.empty(shape, dtype=torch.uint8)

        def decode(part: range) -> None:
            pixels[part.start : part.stop] = files.read(np.array(part))

        for _ in _in_parallel(decode, len(files), f"decoding {len(files):,} pictures of {folder}", progress=progress):
            pass
        about = _describe(folder, checksum, measure_mean_std(pixels.permute(0, 3, 1, 2)))
        array = pixels.numpy()
        if _store(cache, about_path, about, array_path, array):
            array = np.load(array_path, mmap_mode="c")
    return Images(torch.from_numpy(array).permute(0, 3, 1, 2), files.labels), (about["mean"], about["std"])


def measure_folder(files: Files, folder: Path, checksum: str, *, cache: Path, progress: bool) -> Normalization:
    """Mean and standard deviation of the pictures of ``folder``; the first time decodes each picture, keeping none."""
    _, about_path = _paths(files, folder, "measured", cache)
    about = _read_about(about_path, checksum)
    if about is None:

        def measure(part: range) -> tuple[torch.Tensor, torch.Tensor, int]:
            return moments(files.read(np.array(part)).permute(0, 3, 1, 2))

        task = f"measuring the mean of {len(files):,} pictures of {folder}"
        about = _describe(folder, checksum, combine_moments(_in_parallel(measure, len(files), task, progress=progress)))
        _store(cache, about_path, about)
    return about["mean"], about["std"]


def _in_parallel(function: Callable[[range], T], count: int, task: str, *, progress: bool) -> Iterator[T]:
    """Call ``function`` on every range of 64 pictures, one thread per core; yield the results in order."""
    print(f"{task}, once", file=sys.stderr, flush=True)
    parts = [range(start, min(start + _PART, count)) for start in range(0, count, _PART)]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with counted(task, count, wanted=progress) as advance:
            for part, made in zip(parts, pool.map(function, parts), strict=True):
                yield made
                advance(len(part))
    finally:
        pool.shutdown(cancel_futures=True)


def _paths(files: Files, folder: Path, kind: str, cache: Path) -> tuple[Path, Path]:
    """Array and description of the entry; ``kind`` is decoded or measured."""
    size = f"{files.side if files.resize else None}|{files.side}|{files.resized_crop}"
    key = hashlib.sha256(f"{kind}|{folder.resolve()}|{size}".encode()).hexdigest()[:16]
    return cache / f"{key}.npy", cache / f"{key}.json"


def _describe(folder: Path, checksum: str, normalization: Normalization) -> dict[str, Any]:
    mean, std = normalization
    return {"folder": str(folder.resolve()), "checksum": checksum, "mean": mean, "std": std}


def _read_about(path: Path, checksum: str) -> dict[str, Any] | None:
    """The description of an entry for a listing with this checksum; None if there is none, or a damaged one."""
    try:
        about = parse(read_sealed(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        _say_damaged(error if isinstance(error, (OSError, DamagedError)) else f"{path} holds no description")
        return None
    if not isinstance(about, dict) or about.get("checksum") != checksum:
        return None
    if not all(_is_per_channel(about.get(key)) for key in ("mean", "std")):
        _say_damaged(f"{path} has no mean and deviation of pictures")
        return None
    return about | {"mean": tuple(about["mean"]), "std": tuple(about["std"])}


def _is_per_channel(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(is_number(number) and number >= 0 for number in value)


def _read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The pictures of an entry, mapped from the disk; None if there are none, or damaged ones."""
    try:
        check_seal(path)
        array: np.ndarray = np.load(path, mmap_mode="c")  # copy on write: torch needs a writable array
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        _say_damaged(error if isinstance(error, (OSError, DamagedError)) else f"{path} holds no array")
        return None
    if array.shape != shape or array.dtype != np.uint8:
        _say_damaged(f"{path} holds {array.dtype} {array.shape} instead of uint8 {shape}")
        return None
    return array


def _say_damaged(reason: object) -> None:
    if isinstance(reason, OSError) and reason.strerror:
        reason = f"{reason.filename}: {reason.strerror}"
    print(f"{reason}: the kept pictures are made again", file=sys.stderr, flush=True)


def _store(
    cache: Path, about_path: Path, about: dict[str, Any], array_path: Path | None = None, pixels: Any = None
) -> bool:
    """Keep an entry; False if the cache cannot be written to, which is said and ends nothing."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        about_path.unlink(missing_ok=True)  # no description may ever stand next to another array
        if array_path is not None:
            array_path.unlink(missing_ok=True)  # a pipe in its place would be written to
            with replacing(array_path, seal=True) as file:
                np.lib.format.write_array(file, pixels)
        write_atomically(about_path, json.dumps(about), seal=True)
    except OSError as error:
        print(
            f"decoded pictures cannot be kept in {cache} ({error.strerror or error}), and are decoded at each start: "
            "choose another data.cache=",
            file=sys.stderr,
            flush=True,
        )
        return False
    return True
