"""Residual networks for CIFAR-10, and the paper's WRN-34 for ImageNet.

    name                          stem                     blocks                   channels           weights
    cifar_resnet18 / 34 / 50      3x3                      2-2-2-2 / 3-4-6-3        64-128-256-512     11,164,352 (18)
    cifar_resnet20 ... 110        3x3                      n-n-n, depth = 6 n + 2   16-32-64           270,896 (20)
    wide_resnet18_2               3x3                      2-2-2-2, pre-activation  64-192-384-768     24,868,032
    wide_resnet34                 7x7 stride 2, max-pool   3-4-6-3                  64-192-384-768     48,270,528

``kind`` selects the block; c are its channels, s is its stride (2 in the first block of every stage but the first):

    basic         y = ReLU(BN conv3x3(c) ReLU BN conv3x3(c, s) x + shortcut(x))
    bottleneck    y = ReLU(BN conv1x1(4c) ReLU BN conv3x3(c, s) ReLU BN conv1x1(c) x + shortcut(x))
    preactivation a = ReLU BN x;  y = conv3x3(c) ReLU BN conv3x3(c, s) a + shortcut(a);  ReLU BN after the last block

The shortcut is BN conv1x1(s) if the shape changes, else the identity. The network ends in a global average pool and a
linear layer, and has no biases. ``width`` multiplies all channels, never the classes; images may have any size.

Sources: He et al. 2015. The pre-activation network follows Diffenderfer et al., "A Winning Hand", NeurIPS 2021; its
shortcut starts after the activation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mpt.backbones.conv import scaled
from mpt.values import check_least

# kind -> (kernel, channels / c) of each convolution in a block, and the index of the one with the stride
BLOCKS: dict[str, tuple[tuple[tuple[int, int], ...], int]] = {
    "basic": (((3, 1), (3, 1)), 0),
    "bottleneck": (((1, 1), (3, 1), (1, 4)), 1),
    "preactivation": (((3, 1), (3, 1)), 0),
}


class Block(nn.Module):
    """One residual block, ``conv1 bn1 relu1 conv2 ...``; (N, C, H, W) -> (N, C', H / stride, W / stride)."""

    def __init__(self, before: int, channels: int, *, kind: str, stride: int) -> None:
        super().__init__()
        convs, strided = BLOCKS[kind]
        self.depth, self.stride, self.preactivation = len(convs), stride, kind == "preactivation"
        inputs = before
        for i, (kernel, factor) in enumerate(convs):
            outputs = factor * channels
            self.add_module(f"conv{i + 1}", _conv(inputs, outputs, kernel, stride=stride if i == strided else 1))
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(inputs if self.preactivation else outputs))
            self.add_module(f"relu{i + 1}", nn.ReLU(inplace=True))
            inputs = outputs
        self.shortcut = nn.Sequential()
        if stride != 1 or before != inputs:
            self.shortcut = nn.Sequential(_conv(before, inputs, 1), nn.BatchNorm2d(inputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.preactivation:
            activated = self._step("relu", 1, self._step("bn", 1, x))
            out = self._step("conv", 1, activated)
            for i in range(2, self.depth + 1):
                out = self._step("conv", i, self._step("relu", i, self._step("bn", i, out)))
            return out + self._short(activated)
        out = x
        for i in range(1, self.depth + 1):
            out = self._step("bn", i, self._step("conv", i, out))
            out = self._step("relu", i, out + self._short(x) if i == self.depth else out)
        return out

    def _short(self, x: Tensor) -> Tensor:
        """The shortcut, strided by slicing, which gives the same numbers as a strided convolution.

        oneDNN's strided 1x1 convolution with few channels in channels-last writes past its memory on CPUs (torch 2.14).
        """
        out: Tensor = self.shortcut(x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride])
        return out

    def _step(self, layer: str, i: int, x: Tensor) -> Tensor:
        out: Tensor = getattr(self, f"{layer}{i}")(x)
        return out


class ResNet(nn.Module):
    """``conv1 bn1 relu [maxpool] layer1 layer2 ... fc``; (N, C, S, S) -> (N, classes).

    Args:
        kind: kind of the blocks, a key of ``BLOCKS``.
        blocks: number of blocks in each stage.
        channels: channels c of each stage; the stem has as many as the first stage.
        imagenet_stem: use a 7x7 convolution and a 3x3 max-pool, both with stride 2, instead of a 3x3 convolution.

    Attributes:
        in_channels: channels C of an image.
    """

    def __init__(
        self,
        *,
        kind: str,
        blocks: Sequence[int],
        channels: Sequence[int],
        width: float,
        num_classes: int,
        in_channels: int,
        imagenet_stem: bool = False,
    ) -> None:
        super().__init__()
        check_least(num_classes=num_classes, in_channels=in_channels)
        self.in_channels, self.preactivation = in_channels, kind == "preactivation"
        stages = [scaled(c, width=width) for c in channels]
        before, self.num_stages = stages[0], len(stages)
        self.conv1 = _conv(in_channels, before, 7, stride=2) if imagenet_stem else _conv(in_channels, before, 3)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if imagenet_stem else nn.Identity()
        for stage, (c, depth) in enumerate(zip(stages, blocks, strict=True)):
            layer = nn.Sequential()
            for i in range(depth):
                layer.append(Block(before, c, kind=kind, stride=2 if stage and i == 0 else 1))
                before = c * BLOCKS[kind][0][-1][1]
            self.add_module(f"layer{stage + 1}", layer)
        self.bn1 = nn.BatchNorm2d(before if self.preactivation else stages[0])
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)
        x = self.maxpool(x if self.preactivation else self.relu(self.bn1(x)))
        for stage in range(1, self.num_stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        x = self.relu(self.bn1(x)) if self.preactivation else x
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))  # (N, C', h, w) -> (N, C')
        return logits


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
