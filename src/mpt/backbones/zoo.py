"""Classifiers of torchvision and, with the extra ``timm``, of timm as backbones. They are never pretrained."""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mpt.values import check_least

SHORT = 1000  # numbers


def torchvision_classifier(*, name: str, num_classes: int, in_channels: int, arguments: dict[str, Any]) -> nn.Module:
    """The torchvision classifier ``name`` without auxiliary heads; its stem is replaced if images are not RGB."""
    from torchvision import models

    check_torchvision_name(name)
    check_least(num_classes=num_classes, in_channels=in_channels)
    if name in ("googlenet", "inception_v3"):
        arguments = {"aux_logits": False, "init_weights": False} | arguments
    with _Numbers() if name.startswith("regnet") else nullcontext():  # it computes its widths as tensors
        backbone: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    if in_channels != 3:
        _replace_stem(backbone, in_channels)
    return backbone


class _Numbers(TorchFunctionMode):
    """Inside, short lists and ranges have numbers also on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        lost = func in (torch.arange, torch.tensor) and made.is_meta and made.ndim > 0 and made.numel() <= SHORT
        return func(*args, **(kwargs or {}) | {"device": "cpu"}) if lost else made


def timm_classifier(*, name: str, num_classes: int, in_channels: int, arguments: dict[str, Any]) -> nn.Module:
    """The timm model ``name``."""
    check_timm_name(name)
    check_least(0, num_classes=num_classes)
    check_least(in_channels=in_channels)
    import timm

    backbone: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **arguments
    )
    return backbone


def check_name(target: str, name: str) -> None:
    """ValueError if ``target`` builds the models of torchvision or timm, and they have none of this ``name``."""
    if target == "mpt.backbones.torchvision":
        check_torchvision_name(name)
    elif target == "mpt.backbones.timm":
        check_timm_name(name)


def check_torchvision_name(name: str) -> None:
    """ValueError unless torchvision has a classifier ``name``."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}: choose one such as {_near(name, known)}")


def check_timm_name(name: str) -> None:
    """ValueError unless timm is installed and has a model ``name``."""
    try:
        import timm
    except ImportError as error:
        raise ValueError("model=timm needs the package timm: pip install 'multiprize[timm]'") from error
    if name not in timm.list_models():
        raise ValueError(f"timm has no model {name!r}: choose one such as {_near(name, timm.list_models())}")


def _near(name: str, known: list[str], count: int = 8) -> str:
    near = difflib.get_close_matches(name, known, n=count, cutoff=0.4) or known[:count]
    return ", ".join(near)


def _replace_stem(backbone: nn.Module, in_channels: int) -> None:
    """Replace the first convolution on 3 channels by one on ``in_channels``."""
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
    raise ValueError(
        f"{type(backbone).__name__} has no convolution on 3 channels that could take {in_channels} channels: "
        "choose another model"
    )
