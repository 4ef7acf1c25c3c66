"""Other libraries' classifiers as backbones: torchvision's and, with the extra ``timm``, timm's. Never pretrained."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn


def torchvision_classifier(*, name: str, num_classes: int, in_channels: int, arguments: dict[str, Any]) -> nn.Module:
    """The torchvision classifier ``name`` with auxiliary heads off; its stem is widened where images are not RGB."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}: take one of {_near(name, known)}")
    if name in ("googlenet", "inception_v3"):
        arguments = {"aux_logits": False, "init_weights": False} | arguments
    backbone: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    if in_channels != 3:
        _replace_stem(backbone, in_channels)
    return backbone


def timm_classifier(*, name: str, num_classes: int, in_channels: int, arguments: dict[str, Any]) -> nn.Module:
    """The timm model ``name``."""
    try:
        import timm
    except ImportError as error:
        raise ValueError("model=timm needs the package timm: pip install 'multiprize[timm]'") from error
    if name not in timm.list_models():
        raise ValueError(f"timm has no model {name!r}: take one of {_near(name, timm.list_models())}")
    backbone: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **arguments
    )
    return backbone


def _near(name: str, known: list[str], most: int = 8) -> str:
    near = difflib.get_close_matches(name, known, n=most, cutoff=0.4) or known[:most]
    return ", ".join(near) + " ..."


def _replace_stem(backbone: nn.Module, in_channels: int) -> None:
    """Give the first convolution ``in_channels`` inputs instead of 3."""
    for name, layer in backbone.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3:
            stem = nn.Conv2d(
                in_channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                bias=layer.bias is not None,
            )
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, stem)
            return
    raise ValueError(f"{type(backbone).__name__} has no convolution on 3 channels to widen to {in_channels}")
