"""Worker processes for the work done image by image: decoding, random resized crops, AugMix, Gaussian noise.

All randomness of an image is a function of seed, epoch and the image's index in its split. So the number of workers and
processes changes nothing, and an interrupted run sees the same batches when it resumes.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mpt.data.augment import Views, crop_and_flip
from mpt.data.images import Files, ImageData, Images
from mpt.streams import stream_generator

MAX_WORKERS = 16


class Task(NamedTuple):
    """Instructions for one batch.

    Attributes:
        indices: int64 (B,), indices of the images in their split.
        moves, flips: int64 (B, 2) and bool (B,), see :func:`mpt.data.augment.crop_and_flip`.
        epoch: epoch that determines the random numbers; None for plain images.
    """

    indices: np.ndarray
    moves: np.ndarray
    flips: np.ndarray
    epoch: int | None


class Work(Dataset[Any]):
    """Maps a task to pixels, uint8 (V B, H, W, C): the images, then with AugMix two views of each (V = 3, else 1)."""

    def __init__(self, images: Images | Files, *, data: ImageData, seed: int) -> None:
        import torchvision.transforms.v2  # noqa: F401  imported here once, instead of in each process

        self.images, self.data, self.seed, self.views = images, data, seed, None
        if per_image(data):
            self.views = Views(augmix=data.augmix, noise_std=data.noise_std, noise_probability=data.noise_probability)

    def __getitem__(self, task: Task) -> Tensor | Exception:
        try:
            with torch.random.fork_rng(devices=[]):  # without workers this is the training process
                return self._compute(task)
        except (OSError, ValueError) as error:  # the training process raises it; torch would wrap it in a traceback
            return error

    def _compute(self, task: Task) -> Tensor:
        if task.epoch is None:
            return self.images.read(task.indices)
        pixels = self.images.read(task.indices, seeds=self._seeds(task, "crop"))
        if self.data.crop or self.data.flip:
            moves, flips = torch.from_numpy(task.moves), torch.from_numpy(task.flips)
            pixels = crop_and_flip(pixels, moves, flips, padding=self.data.crop)
        if self.views is None:
            return pixels
        views = []
        images = pixels.permute(0, 3, 1, 2).contiguous()
        for image, seed in zip(images, self._seeds(task, "views"), strict=True):
            torch.default_generator.manual_seed(seed)
            views.append(self.views(image))
        return torch.stack(views, dim=1).flatten(0, 1).permute(0, 2, 3, 1).contiguous()

    def _seeds(self, task: Task, purpose: str) -> list[int]:
        streams = (f"data/epoch {task.epoch}/image {index}/{purpose}" for index in task.indices)
        return [int(stream_generator(self.seed, stream).integers(2**63)) for stream in streams]


class _Tasks:
    """The tasks of the next pass, passed to torch's loader as its sampler."""

    def __init__(self) -> None:
        self.next: Iterable[Task] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.next)


class Workers:
    """Processes that work on tasks ahead of time; they live as long as one pass.

    Args:
        images: the split.
        data: the data set of the split, which gives the augmentation and the number of workers; 0 uses this process.
        seed: seed of the data stream.
        world: number of training processes that share the cores of this machine.
        pin: return batches in page-locked memory, for a GPU.
    """

    def __init__(self, images: Images | Files, *, data: ImageData, seed: int, world: int, pin: bool) -> None:
        count = default_workers(world) if data.workers is None else data.workers
        self._tasks = _Tasks()
        self._loader = DataLoader(
            Work(images, data=data, seed=seed),
            batch_size=None,  # a task is a batch
            sampler=self._tasks,  # type: ignore[arg-type]
            num_workers=count,
            pin_memory=pin,
            worker_init_fn=_start,
            generator=torch.Generator(),  # the default would draw from torch's global generator once per epoch
        )

    def __call__(self, tasks: Iterable[Task]) -> Iterator[Tensor]:
        """Yield the pixels of each task, in order; ValueError or OSError for a picture that cannot be read."""
        self._tasks.next = tasks
        batches = iter(self._loader)
        self._tasks.next = ()  # breaks the reference cycle: the tasks refer to the loader, which refers to this object
        try:
            for pixels in batches:
                if isinstance(pixels, Exception):
                    raise pixels
                yield pixels
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise OSError(
                f"a worker process that reads images died ({error}): memory or shared memory (/dev/shm) may be too "
                "small, lower data.workers or batch"
            ) from error
        finally:
            del batches  # ends the processes at once, even if the caller leaves the pass early


def _start(worker: int) -> None:
    gc.freeze()  # garbage inherited from the training process must not be collected here: it may hold other loaders


def per_image(data: ImageData) -> bool:
    """True if training images are augmented one by one, in addition to crops and flips."""
    return data.augmix or data.noise_std > 0


def default_workers(world: int) -> int:
    """Number of cores for each of ``world`` training processes, at least 1 and at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, cores // world))
