"""Batches from memory or from files, reproducibly shuffled, cropped, flipped and normalised on the device.

A training batch and its augmentation depend on the seed, the epoch, and each image's place in the epoch or its split.
They never depend on earlier work nor on the number of processes. With ``world`` processes, each takes every
``world``-th image of the global batch: shards are disjoint, and together they form the whole data set.

Images in memory are cropped and flipped a batch at a time, which costs next to nothing. Worker processes
(``data.workers``) do all other work, image by image and ahead of time: decoding, random resized crops, AugMix, noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mpt.data.augment import crop_and_flip
from mpt.data.images import Files, ImageData, Images
from mpt.data.workers import Task, Workers, per_image
from mpt.streams import stream_generator
from mpt.values import typed


class Batch(NamedTuple):
    """One process's part of a batch.

    Attributes:
        images: float32 (views B, C, H, W), normalised: the B images, then each further view of all of them.
        labels: int64 (B,).
        share: weight of this part's mean loss. With it, the mean over processes and parts of a step is the mean over
            the images of the step, times their share of ``batch`` if ``last_batch`` is ``weighted``. It is 1 if
            ``batch`` divides the split.
        views: number of views of each image, 1 or 3.
    """

    images: Tensor
    labels: Tensor
    share: float
    views: int = 1


class _Step(NamedTuple):
    """One process's part of a batch before any pixel is read: indices (B,), crop corners (B, 2) and flips (B,)."""

    indices: Tensor
    moves: Tensor
    flips: Tensor
    share: float


class Loader:
    """Iterate over one split: images in memory stay on ``device`` as uint8, files are read on demand.

    Args:
        images: the split.
        data: the data set of the split, which gives mean, std, augmentation and workers.
        batch: images per step over all processes.
        accumulate: number of equal parts into which a step is divided, yielded one after the other.
        train: shuffle and augment by ``seed`` and epoch, instead of yielding the plain images in order.
        last_batch: an epoch's last step if it has fewer images: ``weighted`` by its share of ``batch``, so that each
            image of an epoch weighs the same, or ``whole``, a step like any other.
        seed: seed of the data stream.
        rank: index of this process.
        world: number of processes.
        device: device on which batches are formed.
        channels_last: use the channels-last memory format for images.

    Raises:
        ValueError: ``batch`` is not divisible by ``world`` times ``accumulate``.
    """

    @typed
    def __init__(
        self,
        images: Images | Files,
        *,
        data: ImageData,
        batch: int,
        train: bool,
        last_batch: str = "weighted",
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ) -> None:
        if not isinstance(images, Images | Files) or not isinstance(data, ImageData):
            given = f"{type(images).__name__} and {type(data).__name__}"
            raise ValueError(f"a loader takes a split and its data set, as Loader(data.train, data=data), got {given}")
        if batch < 1:
            raise ValueError(f"batch is the number of images per step and must be at least 1, got {batch}")
        if batch % (world * accumulate):
            parts = f" and {accumulate} parts" if accumulate > 1 else ""
            raise ValueError(
                f"batch is the global batch and must be divisible by {world} processes{parts}, got {batch}"
            )
        self.data, self.batch, self.accumulate, self.train = data, batch, accumulate, train
        self.is_weighted = last_batch == "weighted"
        self.seed, self.epoch = seed, 0
        self.rank, self.world, self.device = rank, world, torch.device(device)
        self.channels_last = channels_last
        self.workers = None
        if isinstance(images, Files) or (train and per_image(data)):
            pin = self.device.type == "cuda"
            self.workers = Workers(images, data=data, seed=seed, world=world, pin=pin)
        else:  # (N, H, W, C): a row of pixels with all channels is contiguous in memory
            self.pixels = images.pixels.permute(0, 2, 3, 1).contiguous().to(device)
        self.index_device = torch.device("cpu") if self.workers else self.device
        self.labels = images.labels.to(self.index_device)
        # pixel / 255 -> (pixel / 255 - mean) / std as one fused multiply-add on rows of W C numbers
        mean, std = torch.tensor(data.mean, device=device), torch.tensor(data.std, device=device)
        self.scale = (1 / (255 * std)).repeat(images.shape[-1])
        self.shift = (-mean / std).repeat(images.shape[-1])
        self.batch_sampler = None

    @property
    def sampler(self) -> Loader:
        """The loader itself: Lightning calls ``set_epoch`` on the sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that determines order and augmentation of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches per epoch (of parts, if a step has several), the same in every training process."""
        return -(-len(self.labels) // (self.batch // self.accumulate))

    def __iter__(self) -> Iterator[Batch]:
        views = 3 if self.train and self.data.augmix else 1
        steps, ahead = itertools.tee(self._training() if self.train else self._evaluation())
        pixel_batches = self._from_workers(ahead) if self.workers else self._from_memory(ahead)
        for step, pixels in zip(steps, pixel_batches, strict=True):
            labels = self.labels[step.indices].to(self.device, non_blocking=True)
            images = self._normalise(pixels.to(self.device, non_blocking=True))
            yield Batch(images, labels, step.share, views)

    def _evaluation(self) -> Iterator[_Step]:
        """Each image once over all processes; one process may have one batch fewer than another."""
        mine = torch.arange(len(self.labels), device=self.index_device)[self.rank :: self.world]
        for part in torch.split(mine, self.batch // self.world) if len(mine) else ():
            yield _Step(part, part, part, 1.0)

    def _training(self) -> Iterator[_Step]:
        order, moves, flips = self._draw()
        part = self.batch // self.accumulate
        for start in range(0, len(order), part):
            step = self.batch if self.is_weighted else min(self.batch, len(order) - start // self.batch * self.batch)
            places = torch.arange(start, min(start + part, len(order)), device=self.index_device)[
                self.rank :: self.world
            ]
            share = len(places) * self.world * self.accumulate / step
            if len(places) == 0:  # the last batch has fewer images than processes: take part with weight 0
                places = torch.tensor([start], device=self.index_device)
            yield _Step(order[places], moves[places], flips[places], share)

    def _draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw order (N,), crop offsets (N, 2) in 0 .. 2 crop and flips (N,) on the CPU, the same for every device."""
        generator, n = stream_generator(self.seed, f"data/epoch {self.epoch}"), len(self.labels)
        order = torch.from_numpy(generator.permutation(n))
        moves = torch.from_numpy(generator.integers(0, 2 * self.data.crop + 1, (n, 2)))
        flips = torch.from_numpy((generator.random(n) < 0.5) & self.data.flip)
        return order.to(self.index_device), moves.to(self.index_device), flips.to(self.index_device)

    def _from_memory(self, steps: Iterable[_Step]) -> Iterator[Tensor]:
        """Yield the pixels of each step from memory, uint8 (B, H, W, C)."""
        augment = self.train and (self.data.crop or self.data.flip)
        for step in steps:
            pixels = self.pixels.index_select(0, step.indices)
            yield crop_and_flip(pixels, step.moves, step.flips, padding=self.data.crop) if augment else pixels

    def _from_workers(self, steps: Iterable[_Step]) -> Iterator[Tensor]:
        """Yield the pixels of each step from worker processes, uint8 (views B, H, W, C)."""
        assert self.workers is not None
        epoch = self.epoch if self.train else None
        return self.workers(Task(s.indices.numpy(), s.moves.numpy(), s.flips.numpy(), epoch) for s in steps)

    def _normalise(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 (B, H, W, C) to float32 (B, C, H, W), channels-last in memory if ``channels_last`` is set."""
        rows = pixels.flatten(2).float()  # (B, H, W C)
        torch.addcmul(self.shift, rows, self.scale, out=rows)  # in place: new memory costs more than the arithmetic
        images = rows.view(pixels.shape).permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()
