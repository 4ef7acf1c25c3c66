"""From a ticket back to a network: a plain backbone takes the ticket's layers, masks, signs and every other value.

What a file says of its backbone is tried first without memory (torch's meta device), and its shapes are compared with
the ticket's: a file could name a network of any size. Only backbones of :mod:`mpt.backbones` are built from a file, and
only methods of :mod:`mpt.search.methods`; nothing that a file names is imported.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from mpt import backbones
from mpt.search import methods
from mpt.search.attention import split_attention
from mpt.search.backbone import copy_of
from mpt.search.binarize import apply_signs
from mpt.search.conversion import Conversion, Signs
from mpt.search.convert import add_ticket_layers, plain_layers
from mpt.search.layers import TicketLayer, searched_tensors
from mpt.search.methods import Dense, EdgePopup, Method
from mpt.search.parameters import child, strip
from mpt.search.reading import attach_reading
from mpt.search.refusal import layers_of_their_own, refuse
from mpt.search.wrapped import without_wrappers
from mpt.ticket.keeping import keep_ticket_weights
from mpt.ticket.layer import StoredLayer, StoredState
from mpt.ticket.pack import unsearched

SPARE = 1000  # parameters that a plain backbone may have beyond its ticket's: biases, batch-norm
RANDOM = {nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.trunc_normal_, Tensor.uniform_, Tensor.normal_}
SPARE_VALUES = 2**25  # values of its parameters and buffers that its ticket does not have


def build_network(
    header: dict[str, Any],
    layers: Sequence[StoredLayer],
    others: Sequence[StoredState],
    *,
    backbone: nn.Module | None,
) -> nn.Module:
    """The network of a ticket with this content; see :meth:`mpt.Ticket.network`."""
    with _Unfilled():
        plain = copy_of(backbone) if backbone is not None else build_backbone(header, layers, others)
    parts = {name for name, _ in plain.named_modules(remove_duplicate=False)}
    named = {layer.name for layer in layers} | {state.name.rpartition(".")[0] for state in others}
    if backbone is not None and not named <= parts:
        header, layers, others = _renamed(header, layers, others, without_wrappers(backbone))
    net = _assemble(plain, header, layers, others)
    _load_layers(net, layers)
    _load_others(net, others)
    keep_ticket_weights(net)
    return net.eval()


def _renamed(
    header: dict[str, Any], layers: Sequence[StoredLayer], others: Sequence[StoredState], rename: Callable[[str], str]
) -> tuple[dict[str, Any], list[StoredLayer], list[StoredState]]:
    """A ticket's content by other names: mpt 0.1.0 had the wrappers inside a backbone in the names of its layers."""
    binary = header.get("binary_activations")
    if binary is not None:
        signs = Signs.from_dict(binary)
        named = (replace(s, activation=rename(s.activation), behind=s.behind and rename(s.behind)) for s in signs.signs)
        binary = replace(signs, signs=tuple(named)).as_dict()
    header = header | {"binary_activations": binary, "reads": [rename(name) for name in header.get("reads", ())]}
    return (
        header,
        [replace(layer, name=rename(layer.name), tied=layer.tied and rename(layer.tied)) for layer in layers],
        [replace(state, name=rename(state.name)) for state in others],
    )


def build_backbone(header: dict[str, Any], layers: Sequence[StoredLayer], others: Sequence[StoredState]) -> nn.Module:
    """The header's plain backbone, after a trial without memory and within bounds; see :meth:`mpt.Ticket.backbone`."""
    if (origin := header["backbone"]) is None:
        raise ValueError("the ticket does not say how its backbone is built: pass the plain network as backbone=")
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers without weights
            with _at_most(len(layers) + len(others)):
                net = backbones.build(origin)
            _assemble(net, header, layers, others)
            values = sum(value.numel() for value in (*net.parameters(), *net.buffers()))
            if values > 4 * sum(math.prod(stored.shape) for stored in layers) + 4 * _count(others) + SPARE_VALUES:
                raise ValueError(f"the ticket is for another backbone: this one has {values:,} values")
    except (TypeError, RuntimeError, ArithmeticError, LookupError, AttributeError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"the ticket's backbone {origin['target']} cannot be built: {reason}") from error
    return backbones.build(origin)


class _Unfilled(TorchFunctionMode):
    """Inside, random parameters stay as their memory is: whoever builds a network here gives it its values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        return filled if func in RANDOM and isinstance(filled, nn.Parameter) else func(*args, **kwargs)


def _count(others: Sequence[StoredState]) -> int:
    return sum(state.value.numel() for state in others)


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Inside, building a network with far more parameters or modules than a ticket of ``tensors`` raises ValueError.

    A few bytes of a header could ask for a million layers.
    """
    thread, counts = threading.get_ident(), {"parameters": 0, "modules": 0}
    most = {"parameters": 8 * tensors + SPARE, "modules": 64 * tensors + 8 * SPARE}

    def count(kind: str) -> None:
        counts[kind] += threading.get_ident() == thread
        if counts[kind] > most[kind]:
            raise ValueError(f"the ticket is for another backbone: this one has more than {most[kind]:,} {kind}")

    hooks = (
        register_module_parameter_registration_hook(lambda *_: count("parameters")),
        register_module_module_registration_hook(lambda *_: count("modules")),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _assemble(
    net: nn.Module, header: dict[str, Any], layers: Sequence[StoredLayer], others: Sequence[StoredState]
) -> nn.Module:
    """Turn the plain backbone ``net`` into the ticket's network, still without its values.

    Raises:
        ValueError: the ticket is for another backbone.
    """
    plain = header.get("binary_activations")
    signs, method = Signs.from_dict(plain) if plain is not None else None, _method(header)
    if signs is not None:
        apply_signs(signs, net)
    names, kept = {layer.name for layer in layers}, {state.name for state in others}
    if names:
        whole = (name.rpartition(".") for name in kept)
        split_attention(net, keep=[name for name, _, value in whole if value in ("in_proj_weight", "q_proj_weight")])
    _check_layers(net, layers, others)
    if names:
        searched = {name: layer for name, layer in plain_layers(net).items() if name in names}
        refuse(layers_of_their_own(searched), [], searchable=list(searched), dense=())
        add_ticket_layers(net, method, left_out=[name for name in plain_layers(net) if name not in names])
        strip(net, keep=kept)
        attach_reading(net, header.get("reads", ()))
    _check_others(net, others)
    binary = tuple(layer.name for layer in layers if layer.binary_input)
    stored: dict[str, Any] = {key: header[key] for key in ("method", "pattern") if key in header}
    net.conversion = Conversion(
        method, header["seed"], signs=signs, binary_inputs=binary, reads=tuple(header.get("reads", ())), stored=stored
    )  # type: ignore[assignment]
    return net


def _method(header: dict[str, Any]) -> Method:
    """The header's method, if it has one gain for a layer; else edge-popup, whose formula b = m w always holds.

    Methods that are not defined in :mod:`mpt.search.methods` count among the latter. Of the dense baseline nothing is
    read: older files may name options that it does not use.
    """
    choices = dict(header["method"])
    if choices["name"] == Dense.__name__:
        return Dense()
    own = {method.__name__: method for method in Method.__subclasses__() if method.__module__ == methods.__name__}
    method = own.get(choices.pop("name")) if choices.get("gains", "layer") == "layer" else None
    try:
        return method(**choices) if method else EdgePopup(prune=choices.get("prune", 0.0))
    except TypeError as error:
        raise ValueError(f"the ticket's method cannot be read: {error}") from error


def _check_layers(net: nn.Module, layers: Sequence[StoredLayer], others: Sequence[StoredState]) -> None:
    plain = plain_layers(net)
    for layer in layers:
        if layer.name not in plain:
            raise ValueError(f"the ticket is for another backbone: this one has no layer {layer.name!r}")
        _check_shape(f"layer {layer.name!r}", layer.shape, plain[layer.name].weight)
    known = {child(layer.name, "weight") for layer in layers} | {state.name for state in others}
    for name in plain:  # a layer that is not searched may have its weight in parts, as parametrizations do
        if child(name, "weight") not in known and not any(each.startswith(child(name, "")) for each in known):
            raise ValueError(f"the ticket is for another backbone: the ticket has no layer {name!r}")


def _check_others(net: nn.Module, others: Sequence[StoredState]) -> None:
    needed, stored = unsearched(net, searched_tensors(net)), {state.name: state for state in others}
    for name in sorted(needed.keys() ^ stored.keys()):
        where = "the backbone" if name in needed else "the ticket"
        raise ValueError(f"the ticket is for another backbone: only {where} has {name!r}")
    for name, state in stored.items():
        _check_shape(name, tuple(state.value.shape), needed[name])


def _check_shape(what: str, shape: tuple[int, ...], value: Tensor) -> None:
    """ValueError unless ``value``, of the backbone, has the ticket's ``shape``."""
    if shape != tuple(value.shape):
        raise ValueError(
            f"the ticket is for another backbone: {what} is {list(shape)} in the ticket and {list(value.shape)} in "
            "this one"
        )


@torch.no_grad()
def _load_layers(net: nn.Module, layers: Sequence[StoredLayer]) -> None:
    for stored in layers:
        layer = net.get_submodule(stored.name)
        assert isinstance(layer, TicketLayer)
        layer.num_kept = stored.kept
        layer.weight.copy_(stored.weight())
        layer.scores.copy_(stored.mask())


@torch.no_grad()
def _load_others(net: nn.Module, others: Sequence[StoredState]) -> None:
    targets = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    for state in others:
        targets[state.name].copy_(state.value)
        if state.trained is not None:
            targets[state.name].requires_grad_(state.trained)
