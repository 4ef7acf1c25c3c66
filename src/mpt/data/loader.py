"""Batches, shuffled, cropped, flipped and normalised on the device, reproducibly, from memory or from files.

Which images a training batch holds and how each is augmented is a function of (seed, epoch) and of the image's place
in the epoch or in its split, never of what ran before nor of the number of processes. With ``world`` processes each
takes every ``world``-th image of the global batch: shards are disjoint, and together they are the whole data set.

Images in memory are cropped and flipped a batch at a time, which costs next to nothing. What has to be done image by
image (decoding files, random resized crops, AugMix, noise) is done ahead by worker processes, ``data.workers``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mpt.data.augment import augmented
from mpt.data.images import Files, ImageData, Images
from mpt.data.workers import Task, Workers, per_image
from mpt.streams import stream_generator


class Batch(NamedTuple):
    """One process's part of a batch.

    Attributes:
        images: float32 (views B, C, H, W), normalised: the B images, then each further view of all of them.
        labels: int64 (B,).
        share: weight of this part's mean loss, so that the mean over the processes and over the parts of a step is that
            over the global batch; 1 where the batch divides evenly.
        views: of each image, 1 or 3.
    """

    images: Tensor
    labels: Tensor
    share: float
    views: int = 1


class _Step(NamedTuple):
    """One process's part of a batch as it was drawn: images (B,), corners (B, 2) and flips (B,) of their crops."""

    indices: Tensor
    moves: Tensor
    flips: Tensor
    share: float


class Loader:
    """Iterates over one split: images in memory live on ``device`` as uint8, files are read as they are needed.

    Args:
        images: the split.
        data: the data set it belongs to: mean, std, augmentation and workers.
        batch: images a step over all processes.
        accumulate: parts of equal size that a step's images come in, one after the other.
        train: shuffle and augment (by ``seed`` and the epoch), or the plain images in order.
        seed: of the data stream.
        rank, world: which of how many processes this is.
        device: where batches are made.
        channels_last: memory format of the images.

    Raises:
        ValueError: ``batch`` does not divide by ``world`` and ``accumulate``.
    """

    def __init__(
        self,
        images: Images | Files,
        *,
        data: ImageData,
        batch: int,
        train: bool,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ) -> None:
        if batch % (world * accumulate):
            parts = f" and {accumulate} parts" if accumulate > 1 else ""
            raise ValueError(f"batch is the global batch and must divide by the {world} processes{parts}, got {batch}")
        self.data, self.batch, self.accumulate, self.train = data, batch, accumulate, train
        self.seed, self.epoch = seed, 0
        self.rank, self.world, self.device = rank, world, torch.device(device)
        self.channels_last = channels_last
        self.workers = None
        if isinstance(images, Files) or (train and per_image(data)):
            pin = self.device.type == "cuda"
            self.workers = Workers(images, data=data, seed=seed, world=world, pin=pin)
        else:  # (N, H, W, C): what of an image lies side by side in memory is a whole row of pixels
            self.pixels = images.pixels.permute(0, 2, 3, 1).contiguous().to(device)
        self.drawn_on = torch.device("cpu") if self.workers else self.device
        self.labels = images.labels.to(self.drawn_on)
        # pixel / 255 -> (pixel / 255 - mean) / std as one fused multiply-add on rows of W C numbers
        mean, std = torch.tensor(data.mean, device=device), torch.tensor(data.std, device=device)
        self.scale = (1 / (255 * std)).repeat(images.shape[-1])
        self.shift = (-mean / std).repeat(images.shape[-1])
        self.batch_sampler = None

    @property
    def sampler(self) -> Loader:
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches (parts of a step, where there are several) an epoch, the same in every process of training."""
        return -(-len(self.labels) // (self.batch // self.accumulate))

    def __iter__(self) -> Iterator[Batch]:
        views = 3 if self.train and self.data.augmix else 1
        steps, ahead = itertools.tee(self._training() if self.train else self._evaluation())
        for step, pixels in zip(steps, self._worked(ahead) if self.workers else self._held(ahead), strict=True):
            labels = self.labels[step.indices].to(self.device, non_blocking=True)
            images = self._normalised(pixels.to(self.device, non_blocking=True))
            yield Batch(images, labels, step.share, views)

    def _evaluation(self) -> Iterator[_Step]:
        """Each image once, over all processes together; a process may have one batch fewer than another."""
        mine = torch.arange(len(self.labels), device=self.drawn_on)[self.rank :: self.world]
        for part in torch.split(mine, self.batch // self.world) if len(mine) else ():
            yield _Step(part, part, part, 1.0)

    def _training(self) -> Iterator[_Step]:
        order, moves, flips = self._drawn()
        part = self.batch // self.accumulate
        for start in range(0, len(order), part):
            step = min(self.batch, len(order) - start // self.batch * self.batch)  # images of the whole step
            places = torch.arange(start, min(start + part, len(order)), device=self.drawn_on)[self.rank :: self.world]
            share = len(places) * self.world * self.accumulate / step
            if len(places) == 0:  # the last batch has fewer images than there are processes: take part with weight 0
                places = torch.tensor([start], device=self.drawn_on)
            yield _Step(order[places], moves[places], flips[places], share)

    def _drawn(self) -> tuple[Tensor, Tensor, Tensor]:
        """Order (N,), crop offsets (N, 2) in 0 .. 2 crop, flips (N,): drawn on the CPU, the same on every device."""
        generator, n = stream_generator(self.seed, f"data/epoch {self.epoch}"), len(self.labels)
        order = torch.from_numpy(generator.permutation(n))
        moves = torch.from_numpy(generator.integers(0, 2 * self.data.crop + 1, (n, 2)))
        flips = torch.from_numpy((generator.random(n) < 0.5) & self.data.flip)
        return order.to(self.drawn_on), moves.to(self.drawn_on), flips.to(self.drawn_on)

    def _held(self, steps: Iterable[_Step]) -> Iterator[Tensor]:
        """The pixels of each step from memory, uint8 (B, H, W, C)."""
        moved = self.train and (self.data.crop or self.data.flip)
        for step in steps:
            pixels = self.pixels.index_select(0, step.indices)
            yield augmented(pixels, step.moves, step.flips, padding=self.data.crop) if moved else pixels

    def _worked(self, steps: Iterable[_Step]) -> Iterator[Tensor]:
        """The pixels of each step from worker processes, uint8 (views B, H, W, C)."""
        assert self.workers is not None
        epoch = self.epoch if self.train else None
        return self.workers(Task(s.indices.numpy(), s.moves.numpy(), s.flips.numpy(), epoch) for s in steps)

    def _normalised(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, C) -> float32 (B, C, H, W), channels-last in memory unless told otherwise."""
        rows = pixels.flatten(2).float()  # (B, H, W C)
        torch.addcmul(self.shift, rows, self.scale, out=rows)  # in place: fresh memory costs more than the arithmetic
        images = rows.view(pixels.shape).permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()
