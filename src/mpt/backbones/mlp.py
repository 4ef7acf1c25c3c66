"""Fully-connected networks: LeNet-300-100 by default.

    linear 300, ReLU, linear 100, ReLU, linear classes

The networks have no biases. ``width`` multiplies the hidden layers, never the classes. On 28x28 images with one channel
and 10 classes the default has 266,200 weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mpt.backbones.conv import scaled
from mpt.values import check_least, is_whole


class MLP(nn.Module):
    """Linear layers with ReLU between them; (N, C, S, S) -> (N, classes).

    Attributes:
        in_channels: channels C of an image.
        image_size: side S of an image, in pixels.
    """

    def __init__(
        self, *, hidden: Sequence[int], width: float, num_classes: int, in_channels: int, image_size: int
    ) -> None:
        super().__init__()
        if not all(is_whole(features) and features >= 1 for features in hidden):
            raise ValueError(f"hidden lists the features of each hidden layer, each at least 1, got {list(hidden)}")
        check_least(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        self.in_channels, self.image_size = in_channels, image_size
        layers: list[nn.Module] = []
        before = in_channels * image_size**2
        for features in hidden:
            layers += [nn.Linear(before, scaled(features, width=width), bias=False), nn.ReLU(inplace=True)]
            before = scaled(features, width=width)
        self.classifier = nn.Sequential(*layers, nn.Linear(before, num_classes, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images.flatten(1))  # (N, C, S, S) -> (N, C S S)
        return logits
