"""Plain networks with a width; they know nothing of tickets.

``mpt.backbones.conv6(width=1.5, num_classes=10)`` builds one. Each carries its ``origin``, a plain dictionary
``{"target": "mpt.backbones.conv6", "arguments": {...}}`` from which :func:`build` makes the same network again: that is
what a ticket file stores. Only the targets listed here are ever built from a file.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from mpt.backbones.conv import Conv
from mpt.backbones.zoo import timm_classifier, torchvision_classifier


def conv2(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """Two convolutions (64 64), one pool; 4,300,992 weights as defaults stand."""
    return _conv(2, width=width, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


def conv4(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """Four convolutions (64 64 128 128), two pools; 2,425,024 weights as defaults stand."""
    return _conv(4, width=width, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


def conv6(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """Six convolutions (64 64 128 128 256 256), three pools; 2,261,184 weights as defaults stand."""
    return _conv(6, width=width, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


def conv8(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """Eight convolutions (64 64 128 128 256 256 512 512), four pools; 5,275,840 weights as defaults stand."""
    return _conv(8, width=width, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


def torchvision(*, name: str, num_classes: int = 10, in_channels: int = 3, **arguments: Any) -> nn.Module:
    """The torchvision classifier ``name``, untrained, auxiliary heads off; further arguments go to torchvision."""
    net = torchvision_classifier(name=name, num_classes=num_classes, in_channels=in_channels, arguments=arguments)
    return _from(net, "torchvision", dict(name=name, num_classes=num_classes, in_channels=in_channels, **arguments))


def timm(*, name: str, num_classes: int = 10, in_channels: int = 3, **arguments: Any) -> nn.Module:
    """The timm model ``name``, untrained (extra ``timm``); further arguments go to ``timm.create_model``."""
    net = timm_classifier(name=name, num_classes=num_classes, in_channels=in_channels, arguments=arguments)
    return _from(net, "timm", dict(name=name, num_classes=num_classes, in_channels=in_channels, **arguments))


TARGETS = {f"mpt.backbones.{builder.__name__}": builder for builder in (conv2, conv4, conv6, conv8, torchvision, timm)}


def build(origin: dict[str, Any]) -> nn.Module:
    """The network that ``origin`` describes; ValueError if it names anything but a target of this package."""
    target, arguments = origin.get("target"), origin.get("arguments")
    if target not in TARGETS or not isinstance(arguments, dict):
        raise ValueError(
            f"the backbone {target!r} is not one of mpt's own and is not built from a file: pass it as backbone=, "
            "or to mpt-eval as model=<its YAML>"
        )
    if reading := [key for key in arguments if key.startswith(("pretrained", "checkpoint", "weights"))]:
        raise ValueError(f"{target} is never built with {reading[0]}, which reads other files")
    try:
        return TARGETS[target](**arguments)
    except TypeError as error:
        raise ValueError(f"{target} cannot be built with {arguments}: {error}") from error


def _conv(depth: int, **arguments: Any) -> nn.Module:
    return _from(Conv(depth=depth, **arguments), f"conv{depth}", arguments)


def _from(net: nn.Module, builder: str, arguments: dict[str, Any]) -> nn.Module:
    net.origin = {"target": f"mpt.backbones.{builder}", "arguments": arguments}  # type: ignore[assignment]
    return net
