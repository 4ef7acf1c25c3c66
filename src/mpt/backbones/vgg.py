"""VGG-Small: six convolutions and one linear layer, with batch-norm.

Six 3x3 convolutions with padding 1 have 128 128 256 256 512 512 channels. A max-pool of 2 directly follows every second
one, and a linear layer ends the network. There are no biases. ``width`` multiplies the channels, never the classes. Two
forms were published for real activations:

    relus="two"    128 ReLU 128 pool BN   256 256 pool BN   512 512 pool BN ReLU      the published class
    relus="all"    BN ReLU after each convolution; a pool, if any, directly follows the convolution

The network with binary activations has the second form, with signs in place of the ReLUs. Only the last activation, the
input of the linear layer, stays a ReLU. So it is a function here and not a module, and
``mpt.convert(..., binary_activations=True)`` does not replace it. On 32x32 images with 10 classes both forms have
4,656,512 weights, and 7,249,120 at width 1.25, which the paper uses for MPT-1/1.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mpt.backbones.conv import scaled
from mpt.values import check_least

CHANNELS = (128, 256, 512)
FORMS = ("two", "all")


class VGGSmall(nn.Module):
    """Convolutional ``features`` and a linear ``classifier``; (N, C, S, S) -> (N, classes).

    Attributes:
        in_channels: channels C of an image.
        image_size: side S of an image, in pixels.
    """

    def __init__(self, *, width: float, num_classes: int, in_channels: int, image_size: int, relus: str) -> None:
        super().__init__()
        if relus not in FORMS:
            raise ValueError(f"relus must be one of {', '.join(FORMS)}, got {relus!r}")
        check_least(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        if image_size < 8:
            raise ValueError(
                f"image_size must be at least 8 for vgg_small, which halves the image 3 times, got {image_size}"
            )
        self.in_channels, self.image_size = in_channels, image_size
        layers: list[nn.Module] = []
        before = in_channels
        for stage, unscaled in enumerate(CHANNELS):
            channels = scaled(unscaled, width=width)
            layers += [nn.Conv2d(before, channels, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(channels)] if relus == "all" else []
            layers += [nn.ReLU(inplace=True)] if relus == "all" or stage == 0 else []
            layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.MaxPool2d(2)]
            layers += [nn.BatchNorm2d(channels)]
            layers += [nn.ReLU(inplace=True)] if relus == "all" and stage < 2 else []
            before = channels
        self.features = nn.Sequential(*layers)
        side = image_size // 8
        self.classifier = nn.Linear(before * side * side, num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.features(images))
        logits: Tensor = self.classifier(x.flatten(1))  # (N, C', s, s) -> (N, C' s s)
        return logits
