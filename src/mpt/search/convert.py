"""From any backbone to the same backbone with ticket layers, and back.

    net   = convert(backbone, Biprop(prune=0.8), seed=0)     a converted copy; the backbone stays as it is
    dense = to_dense(net)                                    plain torch layers that carry the ticket's weights

Conversion copies the backbone and changes the class of each Conv1d/2d/3d, ConvTranspose1d/2d/3d and Linear in it. So a
layer stays whatever it was: grouped, strided, dilated, padded, shared, hooked. Everything except the scores is frozen,
as prize 2 of the paper requires, unless ``trained`` names it.

A probe then runs the network in evaluation mode to prove that it really computes with the ticket. Layers that cannot be
searched are refused by name, all at once (:mod:`mpt.search.refusal`). With a seed, scales that the backbone starts near
zero start at 1 (:mod:`mpt.search.scales`). A warning names layers without a gradient (:mod:`mpt.search.dead`).
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from mpt.search.activations import SPLINE_T, BinaryActivation
from mpt.search.attention import split_attention
from mpt.search.backbone import copied, copy_of
from mpt.search.binarize import binarize, binary_inputs, refuse_real_inputs
from mpt.search.conversion import Conversion
from mpt.search.dead import warn_of_dead_layers
from mpt.search.divided import warn_of_divided_gains
from mpt.search.draw import draw
from mpt.search.epochs import attach_selection, hooks_of
from mpt.search.formulas import check_formulas, check_pattern
from mpt.search.layers import (
    BESIDE_LARGE,
    LAYERWISE,
    TICKET_LAYERS,
    TicketLayer,
    kind_of,
    one_selection,
    ticket_layers,
)
from mpt.search.methods import Method
from mpt.search.parameters import check_patterns, child, drop_biases, freeze, set_batchnorm
from mpt.search.probe import evaluation_mode, inputs_of, unreached, unread
from mpt.search.quick import least_size
from mpt.search.reading import attach_reading, detach_reading
from mpt.search.refusal import layers_of_their_own, patterns_of, refuse
from mpt.search.scales import start_at_one
from mpt.search.steps import attach_updates
from mpt.search.unsearched import warn_of_unsearched
from mpt.search.weight import channel_shape
from mpt.search.wrapped import unwrap
from mpt.values import check_number, of_kind, of_python
from mpt.words import first_names


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
        backbone: any module; it stays as it is. The copy leaves out wrappers of ``torch.compile`` and data parallelism.
        method: :class:`mpt.Biprop`, :class:`mpt.EdgePopup`, :class:`mpt.Dense` or a method of your own.
        seed: the weights and scores of each layer are drawn from the seed and the layer's name, and scales near zero
            start at 1. None keeps the backbone's own values (the scores then come from seed 0).
        dense: names of layers to leave out of the search, or patterns with ``*``; they keep the backbone's values.
        trained: names or patterns of parameters, not searched, that are trained instead of frozen.
        learn_batchnorm: batch-norm has a learned scale and shift (+BN); otherwise it has none.
        binary_activations: MPT-1/1: signs in place of ReLUs, by the rules of :mod:`mpt.search.binarize`, so that every
            searched convolution but the first sees only -1 and +1. A backbone that already has
            :class:`mpt.BinaryActivation` is checked but not rewritten.
        spline_t: ``t`` of the signs, see :class:`mpt.BinaryActivation`.
        example: one input batch (a tuple for several inputs) for the probe; by default it tries usual shapes.

    Returns:
        The converted copy, on the device and in the dtypes of ``backbone``.

    Raises:
        ValueError: a pattern matches nothing, a layer cannot be converted or is never called, or ``prune`` or
            ``threshold`` leaves nothing of a layer.

    Warns:
        DeadLayers: layers whose scores will hardly learn, and why (:mod:`mpt.search.dead`).
        DividedGains: gains for each channel that a batch-norm divides out (:mod:`mpt.search.divided`).
        UnsearchedLayers: modules whose weights cannot be searched and stay frozen (:mod:`mpt.search.unsearched`).
    """
    seed, spline_t = of_python(seed), of_python(spline_t)
    _check_arguments(method, learn_batchnorm=learn_batchnorm, binary_activations=binary_activations, spline_t=spline_t)
    net = copy_of(backbone)
    names = [name for name, _ in net.named_parameters()]
    signs, inputs, reads = binarize(net, example, t=spline_t) if binary_activations else None, None, tuple[str, ...]()
    split = split_attention(net) if method.searched else []
    own = [name for name in names if name.rpartition(".")[0] not in split]
    own += [name for name, _ in net.named_parameters() if name.startswith(tuple(f"{module}." for module in split))]
    check_patterns("dense", dense, list(plain_layers(net)))
    if method.searched:
        inputs, reads = _search_layers(net, method, example, dense=dense)
        _check_prune_layers(method, ticket_layers(net))
        drop_biases(net, method)
        set_batchnorm(net, learn_batchnorm=learn_batchnorm, reset=seed is not None)
        freeze(net, trained=trained, learn_batchnorm=learn_batchnorm)
        if seed is not None and inputs is not None:
            with evaluation_mode(net):
                start_at_one(net, inputs)
    elif learn_batchnorm or trained:
        raise ValueError(f"{type(method).__name__} trains every parameter: leave out learn_batchnorm and trained")
    binary = _binary_inputs(net, example, refuse=binary_activations)
    left_out = _matching(dense, plain_layers(net))
    check_pattern(method)
    draw({name: layer for name, layer in plain_layers(net).items() if name not in left_out}, method, seed=seed)
    check_formulas(net, method, seed=seed, probed=inputs is not None)
    parameters = {name for name, _ in net.named_parameters()}
    dropped = tuple(name for name in dict.fromkeys(own) if name not in parameters)
    net.conversion = Conversion(method, seed, dropped, signs, binary, reads=reads)  # type: ignore[assignment]
    attach_selection(net, method)
    attach_updates(net, method)
    if inputs is not None:
        warn_of_dead_layers(net, inputs)
        warn_of_divided_gains(net, inputs)
    if method.searched:
        warn_of_unsearched(net)
    return net


def _check_arguments(method: Method, *, spline_t: float, **flags: bool) -> None:
    if not isinstance(method, Method):
        raise ValueError(f"method is an instance, such as mpt.Biprop(prune=0.8), got {method!r}")
    for name, flag in flags.items():
        of_kind(name, flag, "bool")
    check_number("spline_t", SPLINE_T, spline_t, above=0)


def _search_layers(
    net: nn.Module, method: Method, example: Tensor | tuple[Tensor, ...] | None, *, dense: Sequence[str]
) -> tuple[tuple[Tensor, ...] | None, tuple[str, ...]]:
    """Turn the layers of ``net`` into ticket layers.

    Returns:
        Inputs of a forward pass, or None if there is no guess; and the layers whose weight their module reads.

    Raises:
        ValueError: some layers cannot be searched. All are named.
    """
    layers = plain_layers(net)
    left_out = _matching(dense, layers)
    searchable = [name for name in layers if name not in left_out]
    own = layers_of_their_own({name: layers[name] for name in searchable})
    if own and len(own) == len(searchable):
        refuse(own, [], searchable=searchable, dense=dense)
    with evaluation_mode(net):  # before there are scores, whose masks a forward would select
        inputs = inputs_of(net, example) if searchable else None
    add_ticket_layers(net, method, left_out=[*left_out, *own])
    # before biases go: attention that reads a layer's weight reads its bias too
    try:
        reads = unreached(net, inputs) if inputs is not None else []
    except ValueError:
        refuse(own, [], searchable=searchable, dense=dense)  # what is broken may be why it does not run
        raise
    missing = []
    if inputs is not None and reads:
        attach_reading(net, reads)
        missing = list(dict.fromkeys([*unreached(net, inputs), *unread(net, reads, inputs)]))
    refuse(own, missing, searchable=searchable, dense=dense)
    return inputs, tuple(reads)


def _binary_inputs(net: nn.Module, example: Tensor | tuple[Tensor, ...] | None, *, refuse: bool) -> tuple[str, ...]:
    """Names of the layers that see only -1 and +1; empty if ``net`` has no binary activation.

    With ``refuse``, ValueError if a searched convolution other than the first sees anything else.
    """
    if not any(isinstance(module, BinaryActivation) for module in net.modules()):
        return ()
    binary = binary_inputs(net, example)
    if refuse:
        refuse_real_inputs(net, example, binary=binary, searched=list(ticket_layers(net) or plain_layers(net)))
    return binary


def add_ticket_layers(net: nn.Module, method: Method, *, left_out: Sequence[str] = ()) -> None:
    """Turn the layers of ``net`` into ticket layers in place, with scores of 0 and unchanged weights."""
    layers = {name: layer for name, layer in plain_layers(net).items() if name not in left_out}
    if not layers:
        kinds = ", ".join(kind.__name__ for kind in TICKET_LAYERS)
        raise ValueError(
            f"nothing to search: {type(net).__name__} has none of torch's layers {kinds}, or all are left out"
        )
    _check_ties(net, layers)
    selection = LAYERWISE if least_size(list(layers.values())) > 1 else BESIDE_LARGE
    owners: dict[int, Any] = {}  # by the identity of the weight: layers that share it share scores and gains
    for name, layer in layers.items():
        if layer.weight.is_inference():
            raise ValueError(f"layer {name!r} was built under inference_mode: build the backbone outside it")
        layer.__class__ = TICKET_LAYERS[kind_of(layer)]  # type: ignore[index, assignment]
        layer.weight.requires_grad_(False)
        owner = owners.setdefault(id(layer.weight), layer)
        layer.channels = owner.channels
        layer.register_parameter("scores", owner.scores if owner is not layer else _zeros(layer.weight.shape, layer))
        layer.register_buffer("threshold", None)
        layer.register_buffer("pattern", None, persistent=False)
        gain = _zeros(channel_shape(layer.weight.shape, layer.channels), layer) if method.gains == "learned" else None
        layer.register_parameter("log_gain", gain if owner is layer else owner.log_gain)
        layer.method, layer.num_kept = method, method.num_kept(layer.weight.numel(), layer=name)  # type: ignore[assignment]
        layer.selection, layer.place, layer.frozen_ticket = selection, 0, None  # type: ignore[assignment]


def _zeros(shape: Sequence[int], like: Any) -> nn.Parameter:
    """A parameter of zeros, of the dtype and on the device of the weight of the layer ``like``."""
    return nn.Parameter(like.weight.new_zeros(shape))


def to_dense(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with plain torch layers that carry the ticket's weights: bit for bit the same logits."""
    net = unwrap(net)
    with one_selection(net):
        weights = {name: layer.ticket().ticket_weight.clone() for name, layer in ticket_layers(net).items()}
    dense = copied(net)
    shared: dict[int, nn.Parameter] = {}
    for hooks in hooks_of(dense):
        hooks.remove()
    detach_reading(dense)
    for name, layer in ticket_layers(dense).items():
        weight = shared.setdefault(id(layer.weight), nn.Parameter(weights[name]))
        layer.__class__ = kind_of(layer)  # type: ignore[assignment]
        for attribute in (
            "method",
            "num_kept",
            "selection",
            "place",
            "frozen_ticket",
            "kept",
            "ramp_scale",
            "channels",
        ):
            layer.__dict__.pop(attribute, None)
        del layer.scores, layer.threshold, layer.pattern, layer.log_gain
        layer.weight = weight
    for attribute in ("conversion", "updates"):
        dense.__dict__.pop(attribute, None)
    return dense


def plain_layers(net: nn.Module) -> dict[str, Any]:
    """The layers of ``net`` that a method can search, by name; a shared layer comes once."""
    return {name: layer for name, layer in net.named_modules() if kind_of(layer)}


def _check_ties(net: nn.Module, layers: dict[str, Any]) -> None:
    """ValueError if a weight or bias of ``layers`` is also a parameter of a module that is not searched."""
    owners = {id(value): name for name, layer in layers.items() for value in layer.parameters(recurse=False)}
    ties = {
        child(name, key): owners[id(value)]
        for name, module in net.named_modules()
        if name not in layers and module not in layers.values()
        for key, value in module.named_parameters(recurse=False)
        if id(value) in owners
    }
    if ties:
        verb, tied = "are" if len(ties) > 1 else "is", list(dict.fromkeys(ties.values()))
        patterns = patterns_of(tied, others=[name for name in layers if name not in tied])
        raise ValueError(
            f"{first_names(list(ties))} {verb} tied to parameters of searched layers ({first_names(tied)}): leave "
            f"those layers out with dense={patterns}"
        )


def _check_prune_layers(method: Method, layers: dict[str, TicketLayer]) -> None:
    patterns, owners = method.prune_layers or {}, dict[int, str]()
    check_patterns("prune_layers", tuple(patterns), list(layers))
    for name, layer in layers.items():
        both = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        if len({patterns[pattern] for pattern in both}) > 1:
            raise ValueError(
                f"prune_layers gives layer {name!r} several fractions, by {' and '.join(both)}: let one match it"
            )
        owner = owners.setdefault(id(layer.weight), name)
        if method.layer_prune(owner) != method.layer_prune(name):
            raise ValueError(
                f"prune_layers gives layers {owner!r} and {name!r} two fractions, and they share one weight: give them "
                "the same"
            )


def _matching(patterns: Sequence[str], layers: dict[str, Any]) -> list[str]:
    return [name for name in layers if any(fnmatchcase(name, pattern) for pattern in patterns)]
