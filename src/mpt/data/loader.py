"""Batches from memory: shuffled, cropped, flipped and normalised a batch at a time, on the device, reproducibly.

Which images a training batch holds and how each is cropped and flipped is a function of (seed, epoch) and of the
image's place in the epoch, never of what ran before nor of the number of processes. With ``world`` processes each takes
every ``world``-th image of the global batch: shards are disjoint, and together they are the whole data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mpt.data.images import ImageData, Images
from mpt.search.initializers import stream_generator


class Batch(NamedTuple):
    """One process's part of a batch.

    Attributes:
        images: float32 (views * B, C, H, W), normalised; the first B are the clean ones.
        labels: int64 (B,).
        share: weight of this part's mean loss, so that the mean over the processes and over the parts of a step is that
            over the global batch; 1 where the batch divides evenly.
        views: of each image, 1 or 3.
    """

    images: Tensor
    labels: Tensor
    share: float
    views: int = 1


class Loader:
    """Iterates over one split; the whole of it lives on ``device`` as uint8.

    Args:
        images: the split.
        data: the data set it belongs to: mean, std, crop and flip.
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
        images: Images,
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
        # (N, H, W, C): what of an image lies side by side in memory is a whole row of pixels
        self.pixels = images.pixels.permute(0, 2, 3, 1).contiguous().to(device)
        self.labels = images.labels.to(device)
        self.batch, self.accumulate, self.train, self.seed, self.epoch = batch, accumulate, train, seed, 0
        self.rank, self.world, self.device = rank, world, torch.device(device)
        self.crop, self.flip = (data.crop, data.flip) if train else (0, False)
        self.channels_last = channels_last
        # pixel / 255 -> (pixel / 255 - mean) / std as one fused multiply-add on rows of W C numbers
        mean, std = torch.tensor(data.mean, device=device), torch.tensor(data.std, device=device)
        self.scale = (1 / (255 * std)).repeat(self.pixels.shape[2])
        self.shift = (-mean / std).repeat(self.pixels.shape[2])
        self.sampler, self.batch_sampler = self, None  # Lightning calls loader.sampler.set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches (parts of a step, where there are several) an epoch, the same in every process of training."""
        return -(-len(self.labels) // (self.batch // self.accumulate))

    def __iter__(self) -> Iterator[Batch]:
        return self._training() if self.train else self._evaluation()

    def _evaluation(self) -> Iterator[Batch]:
        """Each image once, over all processes together; a process may have one batch fewer than another."""
        mine = torch.arange(len(self.labels), device=self.device)[self.rank :: self.world]
        for part in torch.split(mine, self.batch // self.world) if len(mine) else ():
            yield Batch(self._normalised(self.pixels.index_select(0, part)), self.labels[part], 1.0)

    def _training(self) -> Iterator[Batch]:
        order, moves, flips = self._drawn()
        part = self.batch // self.accumulate
        for start in range(0, len(order), part):
            step = min(self.batch, len(order) - start // self.batch * self.batch)  # images of the whole step
            places = torch.arange(start, min(start + part, len(order)), device=self.device)[self.rank :: self.world]
            share = len(places) * self.world * self.accumulate / step
            if len(places) == 0:  # the last batch has fewer images than there are processes: take part with weight 0
                places = torch.tensor([start], device=self.device)
            chosen = order[places]
            pixels = self.pixels.index_select(0, chosen)
            if self.crop or self.flip:
                pixels = augmented(pixels, moves[places], flips[places], padding=self.crop)
            yield Batch(self._normalised(pixels), self.labels[chosen], share)

    def _drawn(self) -> tuple[Tensor, Tensor, Tensor]:
        """Order (N,), crop offsets (N, 2) in 0 .. 2 crop, flips (N,): drawn on the CPU, the same on every device."""
        generator, n = stream_generator(self.seed, f"data/epoch {self.epoch}"), len(self.labels)
        order = torch.from_numpy(generator.permutation(n))
        moves = torch.from_numpy(generator.integers(0, 2 * self.crop + 1, (n, 2)))
        flips = torch.from_numpy((generator.random(n) < 0.5) & self.flip)
        return order.to(self.device), moves.to(self.device), flips.to(self.device)

    def _normalised(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, C) -> float32 (B, C, H, W), channels-last in memory unless told otherwise."""
        rows = torch.addcmul(self.shift, pixels.flatten(2).float(), self.scale)  # (B, H, W C)
        images = rows.view(pixels.shape).permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()


def augmented(pixels: Tensor, moves: Tensor, flips: Tensor, *, padding: int) -> Tensor:
    """Crop each image of the zero-padded batch, mirrored or not, at its own place: one gather for the whole batch.

    Args:
        pixels: (B, H, W, C), contiguous.
        moves: int64 (B, 2), row and column of the crop's corner in 0 .. 2 padding.
        flips: bool (B,), mirror left to right before the crop.
        padding: zeros on each side, in pixels.

    Returns:
        (B, H, W, C).
    """
    batch, height, width, channels = pixels.shape
    padded = F.pad(pixels, (0, 0, *(padding,) * 4))
    both = torch.cat([padded, padded.flip(2)])  # (2 B, H + 2p, W + 2p, C)
    rows, row = padded.shape[1], padded.shape[2] * channels  # pixels down, numbers across
    places = 2 * padding + 1
    windows = both.as_strided(  # [b, y, x] is the crop of image b at corner (y, x)
        (2 * batch, places, places, height, width * channels), (rows * row, row, channels, row, 1)
    )
    chosen = torch.arange(batch, device=pixels.device) + batch * flips
    return windows[chosen, moves[:, 0], moves[:, 1]].view(batch, height, width, channels)
