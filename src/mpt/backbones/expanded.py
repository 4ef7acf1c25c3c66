"""A network with random layers in the place of each layer, as the theorems of existence build it.

    y = W x + b        becomes        y = U relu(... relu(V x)) + b

A linear layer becomes a sequence of linear layers with ReLU between them, and a convolution becomes 1x1 convolutions
followed by one with its own kernel, stride, padding and dilation. The inner layers have no biases. A batch-norm that is
folded into the layer in front of it becomes an identity, and that layer has a bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mpt.values import is_whole


def expand(net: nn.Module, hidden: Mapping[str, Sequence[int]], *, folded: Mapping[str, str]) -> nn.Module:
    """Replace layers of ``net`` in place.

    Args:
        net: any module.
        hidden: layer -> features of its hidden layers, from the first.
        folded: batch-norm -> the layer that it is folded into.

    Raises:
        ValueError: ``net`` has no such layer, or a layer is neither Linear nor Conv2d.
    """
    modules = dict(net.named_modules())
    for name in (*hidden, *folded):
        if not name or name not in modules:
            raise ValueError(f"hidden and folded name layers of the network, and it has no {name!r}")
    for name, widths in hidden.items():
        biased = getattr(modules[name], "bias", None) is not None or name in folded.values()
        _replace(net, name, _sequence(name, modules[name], list(widths), bias=biased))
    for name in folded:
        _replace(net, name, nn.Identity())
    return net


def _sequence(name: str, layer: Any, widths: list[int], *, bias: bool) -> nn.Sequential:
    if not widths or any(not is_whole(width) or width < 1 for width in widths):
        raise ValueError(f"hidden lists the features of the hidden layers of {name}, each at least 1, got {widths}")
    parts: list[nn.Module] = []
    if isinstance(layer, nn.Linear):
        before = layer.in_features
        for width in widths:
            parts += [nn.Linear(before, width, bias=False), nn.ReLU()]
            before = width
        return nn.Sequential(*parts, nn.Linear(before, layer.out_features, bias=bias))
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        raise ValueError(f"{name} is {type(layer).__name__}: only Linear and Conv2d of one group can be expanded")
    before = layer.in_channels
    for width in widths:
        parts += [nn.Conv2d(before, width, 1, bias=False), nn.ReLU()]
        before = width
    last = nn.Conv2d(
        before,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        bias=bias,
        padding_mode=layer.padding_mode,
    )
    return nn.Sequential(*parts, last)


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, module)
