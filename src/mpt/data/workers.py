"""What is made of each image by itself, by worker processes: decoding, random resized crops, AugMix, Gaussian noise.

Everything random about an image is a function of (seed, epoch, place of the image in its split): the number of workers
and processes changes nothing, and a run that was cut off sees the same batches when it goes on.
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

from mpt.data.augment import Views, augmented
from mpt.data.images import Files, ImageData, Images
from mpt.streams import stream_generator

MOST_WORKERS = 16


class Task(NamedTuple):
    """What a worker makes one batch of.

    Attributes:
        indices: int64 (B,), of the images.
        moves, flips: int64 (B, 2) and bool (B,), see :func:`mpt.data.augment.augmented`.
        epoch: whose random numbers are taken; None for plain images.
    """

    indices: np.ndarray
    moves: np.ndarray
    flips: np.ndarray
    epoch: int | None


class Work(Dataset[Any]):
    """Pixels of a task, uint8 (V B, H, W, C): the images, then with AugMix two views of each (V = 3, else 1)."""

    def __init__(self, images: Images | Files, *, data: ImageData, seed: int) -> None:
        import torchvision.transforms.v2  # noqa: F401  here, once: each process would import it again

        self.images, self.data, self.seed, self.views = images, data, seed, None
        if per_image(data):
            self.views = Views(augmix=data.augmix, noise_std=data.noise_std, noise_probability=data.noise_probability)

    def __getitem__(self, task: Task) -> Tensor | Exception:
        try:
            with torch.random.fork_rng(devices=[]):  # without workers this is the training process
                return self._made(task)
        except (OSError, ValueError) as error:  # raised in the training process: torch would wrap it in a traceback
            return error

    def _made(self, task: Task) -> Tensor:
        if task.epoch is None:
            return self.images.read(task.indices)
        pixels = self.images.read(task.indices, seeds=self._seeds(task, "crop"))
        if self.data.crop or self.data.flip:
            moves, flips = torch.from_numpy(task.moves), torch.from_numpy(task.flips)
            pixels = augmented(pixels, moves, flips, padding=self.data.crop)
        if self.views is None:
            return pixels
        views = []
        seen = pixels.permute(0, 3, 1, 2).contiguous()
        for image, seed in zip(seen, self._seeds(task, "views"), strict=True):
            torch.default_generator.manual_seed(seed)
            views.append(self.views(image))
        return torch.stack(views, dim=1).flatten(0, 1).permute(0, 2, 3, 1).contiguous()

    def _seeds(self, task: Task, what: str) -> list[int]:
        streams = (f"data/epoch {task.epoch}/image {index}/{what}" for index in task.indices)
        return [int(stream_generator(self.seed, stream).integers(2**63)) for stream in streams]


class _Tasks:
    """The tasks of the next pass, where torch's loader looks for a sampler."""

    def __init__(self) -> None:
        self.next: Iterable[Task] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.next)


class Workers:
    """Processes that work on tasks ahead of their use; they live as long as one pass.

    Args:
        images: the split.
        data: the data set it belongs to: augmentation, and the number of workers; 0 works in this process.
        seed: of the data stream.
        world: training processes that share this machine's cores.
        pin: hand batches over in page-locked memory, for a GPU.
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
            generator=torch.Generator(),  # of torch's global one it would take a number an epoch
        )

    def __call__(self, tasks: Iterable[Task]) -> Iterator[Tensor]:
        """The pixels of each task, in order; ValueError or OSError for a picture that cannot be read."""
        self._tasks.next = tasks
        made = iter(self._loader)
        self._tasks.next = ()  # they know the loader, which knows us
        try:
            for pixels in made:
                if isinstance(pixels, Exception):
                    raise pixels
                yield pixels
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise OSError(
                f"a process that reads images has ended ({error}): there may be too little memory, or too little "
                "shared memory (/dev/shm), for data.workers and batch"
            ) from error
        finally:
            del made  # ends the processes at once, also where the pass is left early


def _start(worker: int) -> None:
    gc.freeze()  # what the training process left to collect is its own: other loaders would miss their processes here


def per_image(data: ImageData) -> bool:
    """True if training images are augmented one by one, beyond crops and flips."""
    return data.augmix or data.noise_std > 0


def default_workers(world: int) -> int:
    """As many processes as there are cores for each of ``world`` training processes, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // world))
