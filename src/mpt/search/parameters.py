"""The parameters of a converted network besides searched weights: biases and batch-norm, removed, frozen or trained."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from mpt.search.layers import searched_tensors, ticket_layers
from mpt.search.methods import Method
from mpt.words import first_names

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)  # in one, two and three dimensions, synchronised, and subclasses


def drop_biases(net: nn.Module, method: Method) -> None:
    """Remove the biases of ticket layers unless the method keeps them."""
    for layer in ticket_layers(net).values() if not method.bias else ():
        layer.bias = None


def strip(net: nn.Module, *, keep: set[str]) -> None:
    """Remove the biases of ticket layers and the scale and shift of batch-norms unless ``keep`` names them."""
    for name, layer in ticket_layers(net).items():
        if layer.bias is not None and child(name, "bias") not in keep:
            layer.bias = None
    for name, norm in net.named_modules():
        if isinstance(norm, BATCH_NORMS) and child(name, "weight") in keep:
            _give_scale(norm)
        elif isinstance(norm, BATCH_NORMS):
            norm.weight, norm.bias, norm.affine = None, None, False  # type: ignore[assignment]


def child(name: str, attribute: str) -> str:
    """State-dict name of an attribute of the module ``name``; the empty name is the network itself."""
    return f"{name}.{attribute}" if name else attribute


def _give_scale(norm: Any) -> None:
    """Add a scale of 1 and a shift of 0, unless the batch-norm already has both."""
    if norm.weight is None:
        like = (
            {"dtype": norm.running_mean.dtype, "device": norm.running_mean.device} if norm.track_running_stats else {}
        )
        norm.weight = nn.Parameter(torch.ones(norm.num_features, **like))
        norm.bias, norm.affine = nn.Parameter(torch.zeros_like(norm.weight)), True


def set_batchnorm(net: nn.Module, *, learn_batchnorm: bool, reset: bool) -> None:
    """Give batch-norms a scale of 1 and a shift of 0 to learn (+BN), or else remove both.

    Args:
        net: the converted network, changed in place.
        learn_batchnorm: whether scale and shift are learned.
        reset: whether to reset running statistics, scale and shift. Without it, a scale or shift that changes
            anything stays, frozen.
    """
    norms = [module for module in net.modules() if isinstance(module, BATCH_NORMS)]
    if learn_batchnorm and not norms:
        raise ValueError("learn_batchnorm trains batch-norm's scale and shift, and this backbone has no batch-norm")
    for norm in norms:
        if learn_batchnorm:
            _give_scale(norm)
        if reset:
            norm.reset_running_stats()
        if norm.weight is None:
            continue
        if reset:
            nn.init.ones_(norm.weight)
            nn.init.zeros_(norm.bias)
        identity = bool((norm.weight == 1).all()) and bool((norm.bias == 0).all())
        if not learn_batchnorm and identity:
            norm.weight, norm.bias, norm.affine = None, None, False  # type: ignore[assignment]


def freeze(net: nn.Module, *, trained: Sequence[str], learn_batchnorm: bool) -> None:
    """Freeze all parameters except scores, the ones that ``trained`` names, and batch-norms if they are learned."""
    searched = searched_tensors(net)
    others = {name: p for name, p in net.named_parameters() if id(p) not in searched}
    check_patterns("trained", trained, list(others))
    for layer in ticket_layers(net).values():
        layer.scores.requires_grad_(layer.method.learn_scores)  # and learned gains always
    for name, parameter in others.items():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in trained))
    if learn_batchnorm:
        for norm in (module for module in net.modules() if isinstance(module, BATCH_NORMS)):
            norm.weight.requires_grad_(True)
            norm.bias.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ValueError("learn_scores=false leaves nothing to be learned: say learn_batchnorm=true as well")


def check_patterns(option: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError if one of ``patterns`` matches none of ``names``."""
    if isinstance(patterns, str):
        raise ValueError(f"{option} is a list of names, got the text {patterns!r}")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"{option} is a list of names or patterns, got {pattern!r} in it")
        if not names:
            raise ValueError(
                f"{option} names {pattern!r}, and the network has nothing that it could name: leave it out"
            )
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"{option} names {pattern!r}, which is none of {first_names(list(names))}")
