"""Augment training images: crop and flip a whole batch at once, apply AugMix and Gaussian noise image by image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def crop_and_flip(pixels: Tensor, moves: Tensor, flips: Tensor, *, padding: int) -> Tensor:
    """Mirror some images of a batch, pad all with zeros, and crop each at its own place, in one selection.

    Args:
        pixels: (B, H, W, C), contiguous.
        moves: int64 (B, 2), row and column of the crop's corner in 0 .. 2 padding.
        flips: bool (B,), True mirrors the image left to right before the crop.
        padding: width of the zero border on each side, in pixels.

    Returns:
        (B, H, W, C).
    """
    batch, height, width, channels = pixels.shape
    places = torch.arange(batch, device=pixels.device)
    mirrored = torch.cat([pixels, pixels.flip(2)]).index_select(0, places + batch * flips)
    padded = F.pad(mirrored, (0, 0, *(padding,) * 4))
    rows, row = padded.shape[1], padded.shape[2] * channels  # rows per image, numbers per row
    reach = (height - 1) * row + width * channels  # numbers from the first to the last of a crop
    count = padded.numel() - reach + 1  # windows, one starting at each number
    windows = padded.as_strided((count, height, width * channels), (1, row, 1))
    corners = (places * rows + moves[:, 0]) * row + moves[:, 1] * channels
    return windows.index_select(0, corners).view(batch, height, width, channels)


class Views:
    """An image and, with AugMix, two views of it, each with Gaussian noise. Everything is drawn from torch's generator.

    AugMix (Hendrycks et al. 2020) mixes the image with three chains of one to three operations of severity 3. It omits
    the four operations that are also corruptions of CIFAR-10-C: brightness, color, contrast, sharpness. Each view gets
    noise with probability ``noise_probability``. The noise has standard deviation ``noise_std``, in units of [0, 1];
    the sum is rounded to uint8 and clipped.
    """

    def __init__(self, *, augmix: bool, noise_std: float, noise_probability: float) -> None:
        from torchvision.transforms import v2

        self.augmix = v2.AugMix(severity=3, mixture_width=3, chain_depth=-1, all_ops=False) if augmix else None
        noise = [v2.GaussianNoise(sigma=noise_std)] if noise_std else []
        self.noise: Any = v2.RandomApply(noise, p=noise_probability) if noise else lambda image: image

    def __call__(self, image: Tensor) -> Tensor:
        """Map uint8 (C, H, W) to uint8 (V, C, H, W), the image first; V = 3 with AugMix, else 1."""
        views = [image, *((self.augmix(image), self.augmix(image)) if self.augmix else ())]
        return torch.stack([self.noise(view) for view in views])
