"""Plain networks with a width; they know nothing of tickets.

``mpt.backbones.conv6(width=1.5, num_classes=10)`` builds one. Each network has an ``origin``, a plain dictionary
``{"target": "mpt.backbones.conv6", "arguments": {...}}``. A ticket file stores this dictionary, and :func:`build`
rebuilds the network from it. Only the targets listed here are ever built from a file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from mpt.backbones.conv import Conv
from mpt.backbones.expanded import expand
from mpt.backbones.mlp import MLP
from mpt.backbones.resnet import ResNet
from mpt.backbones.vgg import VGGSmall
from mpt.backbones.zoo import timm_classifier, torchvision_classifier
from mpt.values import of_python, typed


@typed
def conv2(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """Two convolutions (64 64), one pool; 4,300,992 weights by default."""
    return _conv(2, width=width, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


@typed
def conv4(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """Four convolutions (64 64 128 128), two pools; 2,425,024 weights by default."""
    return _conv(4, width=width, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


@typed
def conv6(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """Six convolutions (64 64 128 128 256 256), three pools; 2,261,184 weights by default."""
    return _conv(6, width=width, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


@typed
def conv8(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """Eight convolutions (64 64 128 128 256 256 512 512), four pools; 5,275,840 weights by default."""
    return _conv(8, width=width, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


@typed
def mlp(
    *,
    hidden: Sequence[int] = (300, 100),
    width: float = 1.0,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: int = 28,
) -> nn.Module:
    """Fully-connected layers with ``hidden`` features and ReLU between them; 266,200 weights by default."""
    if isinstance(hidden, (int, str)) or not isinstance(hidden, Iterable):
        example = hidden if isinstance(hidden, int) else 300
        raise ValueError(f"hidden lists the features of each hidden layer, as in [{example}], got {hidden!r}")
    arguments: dict[str, Any] = {"hidden": list(map(of_python, hidden)), "width": width, "num_classes": num_classes}
    arguments |= {"in_channels": in_channels, "image_size": image_size}
    return _with_origin(MLP(**arguments), "mlp", arguments)


@typed
def vgg_small(
    *,
    width: float = 1.0,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int = 32,
    relus: str | None = None,
    binary_activations: bool = False,
) -> nn.Module:
    """VGG-Small; 4,656,512 weights by default, 7,249,120 at width 1.25.

    ``relus`` selects the form, ``two`` (by default) or ``all``, see :mod:`mpt.backbones.vgg`. ``binary_activations``
    selects ``all``, the form whose ReLUs :func:`mpt.convert` replaces by signs; with ``two`` it raises a ValueError.
    """
    if binary_activations and relus == "two":
        raise ValueError("relus=two has no form with binary activations: leave relus out, or choose relus=all")
    arguments: dict[str, Any] = {"width": width, "num_classes": num_classes, "in_channels": in_channels}
    arguments |= {"image_size": image_size, "relus": relus or ("all" if binary_activations else "two")}
    return _with_origin(VGGSmall(**arguments), "vgg_small", arguments)


def _resnet(builder: str, **shape: Any) -> Callable[..., nn.Module]:
    @typed
    def build(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
        arguments: dict[str, Any] = {"width": width, "num_classes": num_classes, "in_channels": in_channels}
        return _with_origin(ResNet(**shape, **arguments), builder, arguments)

    build.__name__ = build.__qualname__ = builder
    build.__doc__ = f"The residual network ``{builder}`` of :mod:`mpt.backbones.resnet`, {shape}."
    return build


_STAGES, _NARROW, _WIDE = (64, 128, 256, 512), (16, 32, 64), (64, 192, 384, 768)
cifar_resnet18 = _resnet("cifar_resnet18", kind="basic", blocks=(2, 2, 2, 2), channels=_STAGES)
cifar_resnet34 = _resnet("cifar_resnet34", kind="basic", blocks=(3, 4, 6, 3), channels=_STAGES)
cifar_resnet50 = _resnet("cifar_resnet50", kind="bottleneck", blocks=(3, 4, 6, 3), channels=_STAGES)
cifar_resnet20 = _resnet("cifar_resnet20", kind="basic", blocks=(3, 3, 3), channels=_NARROW)
cifar_resnet32 = _resnet("cifar_resnet32", kind="basic", blocks=(5, 5, 5), channels=_NARROW)
cifar_resnet44 = _resnet("cifar_resnet44", kind="basic", blocks=(7, 7, 7), channels=_NARROW)
cifar_resnet56 = _resnet("cifar_resnet56", kind="basic", blocks=(9, 9, 9), channels=_NARROW)
cifar_resnet110 = _resnet("cifar_resnet110", kind="basic", blocks=(18, 18, 18), channels=_NARROW)
wide_resnet18_2 = _resnet("wide_resnet18_2", kind="preactivation", blocks=(2, 2, 2, 2), channels=_WIDE)
wide_resnet34 = _resnet("wide_resnet34", kind="basic", blocks=(3, 4, 6, 3), channels=_WIDE, imagenet_stem=True)


@typed
def torchvision(*, name: str, num_classes: int = 10, in_channels: int = 3, **arguments: Any) -> nn.Module:
    """The torchvision classifier ``name``, untrained, without auxiliary heads; other arguments go to torchvision."""
    net = torchvision_classifier(name=name, num_classes=num_classes, in_channels=in_channels, arguments=arguments)
    return _with_origin(
        net, "torchvision", dict(name=name, num_classes=num_classes, in_channels=in_channels, **arguments)
    )


@typed
def timm(*, name: str, num_classes: int = 10, in_channels: int = 3, **arguments: Any) -> nn.Module:
    """The timm model ``name``, untrained (extra ``timm``); other arguments go to ``timm.create_model``."""
    net = timm_classifier(name=name, num_classes=num_classes, in_channels=in_channels, arguments=arguments)
    return _with_origin(net, "timm", dict(name=name, num_classes=num_classes, in_channels=in_channels, **arguments))


def expanded(
    *,
    of: Mapping[str, Any] | nn.Module,
    hidden: Mapping[str, int | Sequence[int]],
    folded: Mapping[str, str] | None = None,
) -> nn.Module:
    """A network with random layers in the place of each of its layers: the backbone of :func:`mpt.construct`.

    Args:
        of: the ``origin`` of a network of this module, or any module, which stays as it is.
        hidden: layer -> features of its hidden layer, or of several.
        folded: batch-norm -> the layer that it is folded into.

    Raises:
        ValueError: the network has no such layer, or ``of`` is itself expanded.
    """
    if not isinstance(of, (nn.Module, Mapping)) or not isinstance(hidden, Mapping):
        raise ValueError(f"of is a network or its origin, and hidden a mapping of its layers, got {of!r}, {hidden!r}")
    if not isinstance(of, nn.Module) and of.get("target") == "mpt.backbones.expanded":
        raise ValueError("of names an expanded network: name the network that it was made of")
    listed = {name: width if isinstance(width, Iterable) else [width] for name, width in hidden.items()}
    widths = {name: list(map(of_python, each)) for name, each in listed.items()}
    net = copy.deepcopy(of) if isinstance(of, nn.Module) else build(dict(of))
    origin = getattr(of, "origin", None) if isinstance(of, nn.Module) else dict(of)
    net = expand(net, widths, folded=folded or {})
    net.origin = None  # type: ignore[assignment]
    if origin is not None and origin.get("target") in TARGETS:
        _with_origin(net, "expanded", {"of": origin, "hidden": widths, "folded": dict(folded or {})})
    return net


_CIFAR_RESNETS = (cifar_resnet18, cifar_resnet34, cifar_resnet50, cifar_resnet20, cifar_resnet32, cifar_resnet44)
_BUILDERS: tuple[Callable[..., nn.Module], ...] = (conv2, conv4, conv6, conv8, mlp, vgg_small, *_CIFAR_RESNETS)
_BUILDERS += (cifar_resnet56, cifar_resnet110, wide_resnet18_2, wide_resnet34, torchvision, timm, expanded)
TARGETS = {f"mpt.backbones.{builder.__name__}": builder for builder in _BUILDERS}


def build(origin: Mapping[str, Any]) -> nn.Module:
    """Build the network that ``origin`` describes; ValueError if its target is not in ``TARGETS``."""
    if not isinstance(origin, Mapping):
        raise ValueError(f"origin is the dictionary of a backbone, with target and arguments, got {origin!r}")
    target, arguments = origin.get("target"), origin.get("arguments")
    if target not in TARGETS or not isinstance(arguments, Mapping):
        raise ValueError(
            f"the backbone {target!r} is not one of mpt's own, so it is never built from a file: pass it as backbone=, "
            "or to mpt-eval as model=<its YAML>"
        )
    if refused := [key for key in arguments if key.startswith(("pretrained", "checkpoint", "weights"))]:
        raise ValueError(f"{target} is never built from a file with {refused[0]}, which reads other files")
    try:
        return TARGETS[target](**arguments)
    except TypeError as error:
        raise ValueError(f"{target} cannot be built with {arguments}: {error}") from error


def _conv(depth: int, **arguments: Any) -> nn.Module:
    return _with_origin(Conv(depth=depth, **arguments), f"conv{depth}", arguments)


def _with_origin(net: nn.Module, builder: str, arguments: dict[str, Any]) -> nn.Module:
    net.origin = {"target": f"mpt.backbones.{builder}", "arguments": arguments}  # type: ignore[assignment]
    return net
