"""Conv2, Conv4, Conv6 and Conv8: the plain VGG-like networks in figures 2 to 5 of the paper.

    3x3 convolutions, padding 1, ReLU after each, max-pool 2 after every second:
    64 64 pool (128 128 pool (256 256 pool (512 512 pool)));  then linear 256, 256, classes, ReLU between

There are no biases and no batch-norm. ``width`` multiplies all channels and both hidden 256s, never the classes. On
32x32 images with 10 classes the networks have 4,300,992 / 2,425,024 / 2,261,184 / 5,275,840 weights.
"""

from __future__ import annotations

from torch import Tensor, nn

from mpt.values import check_least

CHANNELS = (64, 128, 256, 512)
HIDDEN = 256


class Conv(nn.Module):
    """Convolutional ``features`` and a fully-connected ``classifier``; (N, C, S, S) -> (N, classes).

    Attributes:
        in_channels: channels C of an image.
        image_size: side S of an image, in pixels.
    """

    def __init__(self, *, depth: int, width: float, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        check_least(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        self.in_channels, self.image_size = in_channels, image_size
        stages = [scaled(channels, width=width) for channels in CHANNELS[: depth // 2]]
        side = image_size // 2 ** len(stages)
        if side < 1:
            raise ValueError(
                f"image_size must be at least {2 ** len(stages)} for conv{depth}, which halves the image "
                f"{len(stages)} times, got {image_size}"
            )
        layers: list[nn.Module] = []
        before = in_channels
        for channels in stages:
            for _ in range(2):
                layers += [nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.ReLU(inplace=True)]
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = scaled(HIDDEN, width=width)
        self.classifier = nn.Sequential(
            nn.Linear(before * side * side, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes, bias=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        logits: Tensor = self.classifier(x.flatten(1))  # (N, C', s, s) -> (N, C' s s)
        return logits


def scaled(channels: int, *, width: float) -> int:
    """``int(width * channels)``; ValueError if no channel is left."""
    if not 0 < width < float("inf") or int(width * channels) < 1:
        raise ValueError(f"width multiplies the channels and must leave at least 1 of {channels}, got {width!r}")
    return int(width * channels)
