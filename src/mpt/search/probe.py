"""The probe: proves that a converted network really computes with its ticket.

It runs the network in evaluation mode, with the frozen weights in place of ticket weights, which would take longer to
select than the probe takes, and finds two kinds of layer:

* a layer whose ticket weight nothing asks for: it is never called;
* a layer whose ``weight`` is read directly, past the layer, as attention often does: with NaN in all frozen weights the
  network's output becomes NaN.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.layer_ticket import LayerTicket
from mpt.search.layers import TicketLayer, kind_of, ticket_layers
from mpt.search.trace import numbers_in, run

_SIZES = (32, 64, 224, 28, 16, 8, 96, 128, 299)  # image sides to try if the backbone does not state its own


def unreached(net: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Names of the ticket layers of ``net`` that are not called, or whose weight is read past them.

    Args:
        net: a network with ticket layers; the probe changes neither it, nor its mode, nor torch's generator.
        inputs: for one forward pass.
    """
    layers, called = ticket_layers(net), set[str]()
    with evaluation_mode(net), _unselected(layers):
        for name, layer in layers.items():
            layer.frozen_ticket = _WatchedTicket(layer.frozen_ticket, name=name, called=called)  # type: ignore[assignment, arg-type]
        bypassed = _bypassed(net, layers, inputs)  # its forward passes call the layers
    return [name for name in layers if name not in called or name in bypassed]


def unread(net: nn.Module, names: Sequence[str], inputs: tuple[Tensor, ...]) -> list[str]:
    """Those of the ticket layers ``names`` of ``net`` whose ticket weight does not matter for the output.

    NaN in it shows whether it does, and random numbers where NaN gets lost (``torch.nan_to_num``). See
    :func:`unreached` for the arguments.
    """
    unmoved = []
    with evaluation_mode(net), _unselected(ticket_layers(net)):
        for name in names:
            layer: Any = net.get_submodule(name)
            ticket = layer.frozen_ticket
            layer.frozen_ticket = ticket._replace(ticket_weight=torch.full_like(ticket.ticket_weight, torch.nan))
            if _is_finite(net, inputs):
                random_ticket = ticket._replace(ticket_weight=torch.randn_like(ticket.ticket_weight))
                before, again, after = (_output(net, inputs, layer, t) for t in (ticket, ticket, random_ticket))
                unmoved += [] if _equal(before, again) and not _equal(before, after) else [name]
            layer.frozen_ticket = ticket
    return unmoved


def _output(net: nn.Module, inputs: tuple[Tensor, ...], layer: Any, ticket: LayerTicket) -> list[Tensor]:
    """What ``net`` computes with this ticket of ``layer``, and with the global generators as they stay."""
    layer.frozen_ticket = ticket
    with generators_kept(net):
        return [x.clone() for x in numbers_in(run(net, inputs))]


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@contextmanager
def _unselected(layers: dict[str, TicketLayer]) -> Iterator[None]:
    """Inside, each layer computes with its frozen weight, as if its mask kept everything and its gain were 1."""
    try:
        for layer in layers.values():
            weight = layer.weight.detach()
            layer.frozen_ticket = LayerTicket(weight.new_ones((), dtype=torch.bool), weight.new_ones(()), weight)
        yield
    finally:
        for layer in layers.values():
            layer.frozen_ticket = None


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Inside, ``net`` is in evaluation mode, without gradients; afterwards restore its modes and all generators."""
    was_training = {module: module.training for module in net.modules()}
    try:
        net.eval()
        with torch.no_grad(), generators_kept(net):
            yield
    finally:
        for module, mode in was_training.items():
            module.training = mode


@contextmanager
def generators_kept(net: nn.Module) -> Iterator[None]:
    """Afterwards restore the global generators of Python, NumPy and torch, on the CPU and the GPUs of ``net``."""
    gpus = {parameter.get_device() for parameter in net.parameters() if parameter.is_cuda}
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


class _WatchedTicket:
    """A layer's frozen ticket that notes in ``called`` when something asks for the ticket weight.

    A forward hook would not do: with a hook, torch's transformer layers leave the fast path that reads weights.
    """

    def __init__(self, ticket: LayerTicket, *, name: str, called: set[str]) -> None:
        (self.mask, self.gain, self._weight), self._name, self._called = ticket, name, called

    @property
    def ticket_weight(self) -> Tensor:
        self._called.add(self._name)
        return self._weight


def inputs_of(net: nn.Module, example: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    """``example`` as a tuple, or the first guess that ``net`` accepts; None, and a warning, if it accepts none.

    ValueError if ``example`` is neither a tensor nor a tuple.
    """
    if isinstance(example, (Tensor, tuple)):
        return example if isinstance(example, tuple) else (example,)
    if example is not None:
        raise ValueError(
            f"example is a tensor, or a tuple of what the backbone's forward takes, got a {type(example).__name__}: if "
            "the forward takes that as one argument, give (example,)"
        )
    for shape in _guesses(net):
        parameter = next(net.parameters())
        guess = torch.ones(shape, device=parameter.device, dtype=parameter.dtype)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about a guess that does not fit
                net(guess)
            return (guess,)
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError, AttributeError, KeyError):
            continue
    warnings.warn(
        "convert could not guess an input for its probe forward, so whether every layer is called was not checked; "
        "pass example=<one batch>",
        stacklevel=4,
    )
    return None


def _guesses(net: nn.Module) -> Iterator[tuple[int, ...]]:
    """Input shapes to try, from the first layer that can be searched and the sizes that the backbone states."""
    first: Any = next((layer for layer in net.modules() if kind_of(layer)), None)
    own_size = (
        getattr(net, "image_size", None) or (getattr(net, "default_cfg", None) or {}).get("input_size", (0, 0, None))[2]
    )
    sizes = ((own_size,) if isinstance(own_size, int) else ()) + _SIZES
    channels: Any = getattr(net, "in_channels", None) or getattr(first, "in_channels", 3)
    if isinstance(first, nn.Linear):
        yield (2, first.in_features)
    dims = getattr(first, "weight", torch.empty(())).dim() - 2 if hasattr(first, "in_channels") else 2
    for size in sizes:
        yield (2, channels, *(size,) * dims)


@contextmanager
def _nan_weights(layers: list[TicketLayer]) -> Iterator[None]:
    """Inside, the weight of each layer is NaN: code that reads it directly, past the layer, produces NaN."""
    weights = [layer.weight for layer in layers]
    try:
        for layer in layers:
            layer.weight = nn.Parameter(torch.full_like(layer.weight, torch.nan), requires_grad=False)
        yield
    finally:
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight = weight


def _finite(output: object) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in numbers_in(output))


def _is_finite(net: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether the output is finite; a network that refuses NaN has met one."""
    try:
        return _finite(net(*inputs))
    except Exception:  # whatever a backbone raises
        return False


def _bypassed(net: nn.Module, layers: dict[str, TicketLayer], inputs: tuple[Tensor, ...]) -> list[str]:
    """Names of the layers whose weight changes the output past them."""
    with _nan_weights(list(layers.values())):
        if _is_finite(net, inputs):
            return []
    if not _finite(run(net, inputs)):
        return []  # the network's output is not finite anyway, which says nothing about its weights
    names = []
    for name, layer in layers.items():
        with _nan_weights([layer]):
            if not _is_finite(net, inputs):
                names.append(name)
    return names
