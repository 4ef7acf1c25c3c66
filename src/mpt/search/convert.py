"""Any backbone to the same backbone with ticket layers, and back.

    net   = convert(backbone, Biprop(prune=0.8), seed=0)     a converted copy; the backbone stays as it is
    dense = to_dense(net)                                    plain torch layers that carry the ticket's weights

Conversion copies the backbone and changes the class of each Conv1d/2d/3d, ConvTranspose2d and Linear in the copy, so
that whatever the layer was (grouped, strided, dilated, padded, shared, hooked) it still is. Everything that is not a
searched weight is frozen unless named in ``trained``, as prize 2 of the paper wants it.

One probe forward in evaluation mode then proves that the network really computes with the ticket: a converted layer
that is never called, or whose ``weight`` is read past the layer (as attention often does), is refused by name.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from mpt.search.activations import BinaryActivation
from mpt.search.binarize import binarize, binary_inputs, refuse_real_inputs
from mpt.search.conversion import Conversion
from mpt.search.initializers import random_scores, random_weight
from mpt.search.layers import (
    LAYERWISE,
    TICKET_LAYERS,
    TicketLayer,
    frozen,
    kind_of,
    ticket_layers,
    unwrapped,
)
from mpt.search.methods import Method
from mpt.search.parameters import check_patterns, drop_biases, freeze, set_batchnorm
from mpt.search.probe import probe
from mpt.search.selection import choose_together, hooks_of, update_between_steps


def convert(
    backbone: nn.Module,
    method: Method,
    *,
    seed: int | None = 0,
    dense: Sequence[str] = (),
    trained: Sequence[str] = (),
    learn_batchnorm: bool = False,
    binary_activations: bool = False,
    spline_t: float = 1.0,
    example: Tensor | tuple[Tensor, ...] | None = None,
) -> nn.Module:
    """A copy of ``backbone`` whose layers are searched by ``method``.

    Args:
        backbone: any module; it is left as it is. What ``torch.compile`` or data parallelism has wrapped around it is
            not in the copy.
        method: :class:`mpt.Biprop`, :class:`mpt.EdgePopup`, :class:`mpt.Dense` or a method of one's own.
        seed: weights and scores are drawn from it, layer by layer and by name; None keeps the backbone's own weights
            (the scores are then those of seed 0).
        dense: names of layers to leave out of the search, or patterns with ``*``; they keep the backbone's values.
        trained: names or patterns of parameters, not searched, that are trained instead of frozen.
        learn_batchnorm: batch-norm has a learned scale and shift (+BN); otherwise it has none.
        binary_activations: MPT-1/1: signs in the place of ReLUs, by the rules of :mod:`mpt.search.binarize`, so that
            every searched convolution but the first sees only -1 and +1. A backbone that has
            :class:`mpt.BinaryActivation` of its own is not rewritten, only checked.
        spline_t: ``t`` of the signs, see :class:`mpt.BinaryActivation`.
        example: one input batch (a tuple for several inputs) for the probe forward; by default usual shapes are tried.

    Returns:
        The converted copy, on the device and in the dtypes of ``backbone``.

    Raises:
        ValueError: a pattern that matches nothing, a layer that cannot be converted or that is never called, a prune
            or threshold that leaves nothing of a layer.
    """
    backbone = unwrapped(backbone)
    check_patterns("dense", dense, [name for name, layer in backbone.named_modules() if kind_of(layer)])
    net = copy.deepcopy(backbone)
    signs = binarize(net, example, t=spline_t) if binary_activations else None
    if method.searched:
        add_ticket_layers(net, method, left_out=_matching(dense, plain_layers(net)))
        _check_prune_layers(method, list(ticket_layers(net)))
        probe(net, example)  # before biases go: attention that reads a layer's weight reads its bias too
        drop_biases(net, method)
        set_batchnorm(net, learn_batchnorm=learn_batchnorm, reset=seed is not None)
        freeze(net, trained=trained, learn_batchnorm=learn_batchnorm)
    elif learn_batchnorm or trained:
        raise ValueError(f"{type(method).__name__} trains every parameter: leave out learn_batchnorm and trained")
    binary = _binary_inputs(net, example, refuse=binary_activations)
    _draw(net, method, seed=seed, left_out=_matching(dense, plain_layers(net)))
    left = {name for name, _ in net.named_parameters()}
    dropped = tuple(name for name, _ in backbone.named_parameters() if name not in left)
    net.conversion = Conversion(method, seed, dropped, signs, binary)  # type: ignore[assignment]
    choose_together(net, method)
    update_between_steps(net, method)  # their hook runs first
    return net


def _binary_inputs(net: nn.Module, example: Tensor | tuple[Tensor, ...] | None, *, refuse: bool) -> tuple[str, ...]:
    """Layers that see only -1 and +1, if ``net`` has signs at all; ValueError if a searched convolution does not."""
    if not any(isinstance(module, BinaryActivation) for module in net.modules()):
        return ()
    binary = binary_inputs(net, example)
    if refuse:
        refuse_real_inputs(net, example, binary=binary, searched=list(ticket_layers(net) or plain_layers(net)))
    return binary


def add_ticket_layers(net: nn.Module, method: Method, *, left_out: Sequence[str] = ()) -> None:
    """Turn the layers of ``net`` into ticket layers in place; scores are 0 and all weights are what they were."""
    layers = {name: layer for name, layer in plain_layers(net).items() if name not in left_out}
    if not layers:
        raise ValueError("nothing to search: the backbone has no convolution or linear layer, or all are left out")
    _check_convertible(net, layers)
    scores: dict[int, nn.Parameter] = {}  # by the identity of the weight: layers that share it share the scores
    for name, layer in layers.items():
        if layer.weight.is_inference():
            raise ValueError(f"layer {name!r} was made under inference_mode: build the backbone outside it")
        learned = scores.setdefault(id(layer.weight), nn.Parameter(torch.zeros_like(layer.weight)))
        layer.__class__ = TICKET_LAYERS[kind_of(layer)]  # type: ignore[index, assignment]
        layer.weight.requires_grad_(False)
        layer.register_parameter("scores", learned)
        layer.register_buffer("threshold", None)
        layer.method, layer.num_kept = method, method.num_kept(layer.weight.numel(), layer=name)  # type: ignore[assignment]
        layer.selection, layer.place, layer.made = LAYERWISE, 0, None  # type: ignore[assignment]


def to_dense(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with plain torch layers that carry the ticket's weights: bit for bit the same logits."""
    net = unwrapped(net)
    with frozen(net):
        weights = {name: layer.current().ticket_weight.clone() for name, layer in ticket_layers(net).items()}
    dense = copy.deepcopy(net)
    shared: dict[int, nn.Parameter] = {}
    for hooks in hooks_of(dense):
        hooks.remove()
    for name, layer in ticket_layers(dense).items():
        weight = shared.setdefault(id(layer.weight), nn.Parameter(weights[name]))
        layer.__class__ = kind_of(layer)  # type: ignore[assignment]
        for attribute in ("method", "num_kept", "selection", "place", "made", "kept"):
            layer.__dict__.pop(attribute, None)
        del layer.scores, layer.threshold
        layer.weight = weight
    for attribute in ("conversion", "updates"):
        dense.__dict__.pop(attribute, None)
    return dense


def plain_layers(net: nn.Module) -> dict[str, Any]:
    """The layers of ``net`` that a method can search, by name, a shared one once."""
    return {name: layer for name, layer in net.named_modules() if kind_of(layer)}


def _check_convertible(net: nn.Module, layers: dict[str, Any]) -> None:
    """Refuse by name what would not compute what it did: own forwards, parametrizations, weights tied elsewhere."""
    own = {id(parameter) for layer in layers.values() for parameter in layer.parameters(recurse=False)}
    for name, layer in layers.items():
        kind = kind_of(layer)
        if isinstance(layer, TicketLayer):
            raise ValueError(f"layer {name!r} is a ticket layer already: convert the plain backbone")
        if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
            raise ValueError(f"layer {name!r} has no shape yet: run the backbone once before converting it")
        changed = type(layer).forward is not kind.forward  # type: ignore[union-attr]
        if changed or getattr(type(layer), "_conv_forward", None) is not getattr(kind, "_conv_forward", None):
            raise ValueError(
                f"layer {name!r} is a {type(layer).__name__}, which computes in its own way: "
                f"leave it out with dense=('{name}',)"
            )
        if hasattr(layer, "parametrizations") or not isinstance(layer.weight, nn.Parameter):
            raise ValueError(f"the weight of layer {name!r} is parametrized: leave it out with dense=('{name}',)")
    for name, module in net.named_modules():
        if name not in layers and module not in layers.values():
            tied = [key for key, value in module.named_parameters(recurse=False) if id(value) in own]
            if tied:
                raise ValueError(
                    f"{name}.{tied[0]} is tied to the weight of a searched layer: leave that layer out with dense=(...)"
                )


def _check_prune_layers(method: Method, names: list[str]) -> None:
    patterns = method.prune_layers or {}
    check_patterns("prune_layers", tuple(patterns), names)
    for name in names:
        both = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        if len({patterns[pattern] for pattern in both}) > 1:
            raise ValueError(
                f"prune_layers gives layer {name!r} several fractions, by {' and '.join(both)}: let one match it"
            )


def _matching(patterns: Sequence[str], layers: dict[str, Any]) -> list[str]:
    return [name for name in layers if any(fnmatchcase(name, pattern) for pattern in patterns)]


@torch.no_grad()
def _draw(net: nn.Module, method: Method, *, seed: int | None, left_out: Sequence[str]) -> None:
    """Weights (if there is a seed) and scores of all layers, each from the stream of its name."""
    drawn: set[int] = set()
    for name, layer in plain_layers(net).items():
        if name in left_out or id(layer.weight) in drawn:
            continue
        drawn.add(id(layer.weight))
        shape = layer.weight.shape
        if seed is not None:
            layer.weight.copy_(
                random_weight(
                    shape,
                    seed=seed,
                    layer=name,
                    init=method.init,
                    scale_fan=method.scale_fan,
                    prune=method.layer_prune(name),
                )
            )
        if isinstance(layer, TicketLayer):
            layer.scores.copy_(
                random_scores(
                    shape,
                    seed=seed or 0,
                    layer=name,
                    init=method.score_init,
                    start=method.score_start,
                    power=method.power,
                )
            )
