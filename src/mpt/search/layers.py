"""Layers that compute with a ticket: a torch layer whose weight is frozen and whose scores are learned.

A ticket layer is the torch layer of the same kind with one change: where that one uses ``weight``, this one uses
``ticket_weight()``. Its state dict has ``weight`` (frozen) and ``scores`` (learned), both of the layer's own shape.

In training every forward selects the mask again, so that it always follows from the current scores, whoever wrote them:
an optimizer (fused ones do not raise a tensor's version counter), ``load_state_dict`` or a write to ``.data``. Layers
that select together (:mod:`mpt.search.selection`) do so once per forward of the network. Evaluation works the same way,
except inside :func:`frozen`, which computes each layer's ticket weight once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpt.search.activations import recompute_signs

if TYPE_CHECKING:
    from mpt.search.methods import Method


class Made(NamedTuple):
    """Mask, gain and ticket weight of one layer, as :func:`frozen` keeps them."""

    mask: Tensor  # bool, shape of the weight
    gain: Tensor  # 0-d, or of a shape that spreads over the weight's
    ticket_weight: Tensor  # shape of the weight


class TicketWeight(torch.autograd.Function):
    """Frozen weights and a mask to the ticket weight; backward is straight through, by the method's formulas."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, weight: Tensor, method: Method, mask: Tensor) -> Tensor:
        gain = method.gain(weight, mask)
        ctx.save_for_backward(scores, weight, gain)
        ctx.method = method
        return method.ticket_weight(weight, mask, gain)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scores, weight, gain = ctx.saved_tensors
        searched, trained = ctx.needs_input_grad[:2]  # a search needs the first, fine-tuning the second
        ds = ctx.method.score_gradient(grads[0], weight, scores, gain) if searched else None
        dw = ctx.method.weight_gradient(grads[0], scores, gain) if trained else None
        return ds, dw, None, None


class Selection:
    """Which weights are kept: here each layer selects its own number. :mod:`mpt.search.selection` has the others."""

    def mask(self, layer: TicketLayer) -> Tensor:
        """Mask of the current scores of ``layer``, bool, of the shape of its weight."""
        return layer.method.mask(layer.scores, kept=layer.num_kept)

    def open(self) -> AbstractContextManager[None]:
        """Inside, no score changes, so that layers that select together need to do so only once."""
        return nullcontext()

    def empty(self, layer: TicketLayer, name: str) -> ValueError:
        """The error for a mask that keeps nothing of ``layer``."""
        return ValueError(
            f"{type(layer.method).__name__} keeps none of the {layer.weight.numel()} weights of layer {name!r}: "
            "its mask must keep at least one"
        )


LAYERWISE = Selection()


class TicketLayer(nn.Module):
    """Mixin in front of a torch layer: scores next to the weight, and the ticket weight that follows from both.

    Attributes:
        weight: frozen random weights.
        scores: learned, one per weight, same shape.
        method: the search method, shared by the layers of a network.
        num_kept: number of weights that the mask keeps, where the layer selects for itself.
        selection: what makes the mask; ``place`` is the layer's place in it.
        threshold: number that the importance of a kept weight exceeds, 0-d, where the network has a calibrated one.
    """

    weight: Any
    scores: nn.Parameter
    bias: Any
    method: Method
    num_kept: int
    selection: Selection
    place: int
    threshold: Tensor | None
    made: Made | None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "made": None}  # a copy made inside frozen is not frozen itself

    def mask(self) -> Tensor:
        """Mask of the current scores (inside :func:`frozen`: of those at its start), bool, shape of the weight."""
        return self.current().mask

    def gain(self) -> Tensor:
        """Scale of the layer: the mean magnitude of the kept weights, 0-d; or as the method's ``gain`` shapes it."""
        return self.current().gain

    def ticket_weight(self) -> Tensor:
        """The weight that the layer computes with, shape of ``weight``; in training, differentiable in the scores."""
        if self.made is not None and not self.training:
            return self.made.ticket_weight
        weight: Tensor = TicketWeight.apply(self.scores, self.weight, self.method, self._select())
        return weight

    def current(self) -> Made:
        """Mask, gain and ticket weight together, not differentiable: of now, or of the start of :func:`frozen`."""
        return self.made if self.made is not None and not self.training else self._make()

    def _make(self) -> Made:
        with torch.inference_mode(False), torch.no_grad():  # an inference tensor could not be saved for a backward
            mask = self._select()
            gain = self.method.gain(self.weight, mask)
            return Made(mask, gain, self.method.ticket_weight(self.weight, mask, gain))

    @torch.no_grad()
    def _select(self) -> Tensor:
        return self.selection.mask(self)


class _TicketConv(TicketLayer):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.ticket_weight()
        with recompute_signs(x):
            out: Tensor = self._conv_forward(x, weight, self.bias)  # type: ignore[operator]
        return out


class TicketConv1d(_TicketConv, nn.Conv1d):
    """:class:`torch.nn.Conv1d` with a ticket weight; (N, C, L) -> (N, C', L')."""


class TicketConv2d(_TicketConv, nn.Conv2d):
    """:class:`torch.nn.Conv2d` with a ticket weight; (N, C, H, W) -> (N, C', H', W')."""


class TicketConv3d(_TicketConv, nn.Conv3d):
    """:class:`torch.nn.Conv3d` with a ticket weight; (N, C, D, H, W) -> (N, C', D', H', W')."""


class TicketConvTranspose2d(TicketLayer, nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` with a ticket weight; (N, C, H, W) -> (N, C', H', W')."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        padding = self._output_padding(
            x,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            2,
            self.dilation,  # type: ignore[arg-type]
        )
        return F.conv_transpose2d(
            x,
            self.ticket_weight(),
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            padding,
            self.groups,
            self.dilation,
        )


class TicketLinear(TicketLayer, nn.Linear):
    """:class:`torch.nn.Linear` with a ticket weight; (..., C) -> (..., C')."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.ticket_weight(), self.bias)


# torch layer -> its ticket layer; kind_of is the inverse
TICKET_LAYERS: dict[type[nn.Module], type[TicketLayer]] = {
    nn.Conv1d: TicketConv1d,
    nn.Conv2d: TicketConv2d,
    nn.Conv3d: TicketConv3d,
    nn.ConvTranspose2d: TicketConvTranspose2d,
    nn.Linear: TicketLinear,
}
PARALLEL = nn.DataParallel, nn.parallel.DistributedDataParallel


def kind_of(layer: nn.Module) -> type[nn.Module] | None:
    """The torch class that ``layer`` is or derives from, of those that can be searched."""
    return next((kind for kind in TICKET_LAYERS if isinstance(layer, kind)), None)


def some(names: list[str], most: int = 8) -> str:
    """The first names, and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def unwrapped(net: nn.Module) -> nn.Module:
    """What ``torch.compile`` or data parallelism has wrapped, whose layers have their own names; ``net`` otherwise."""
    while "_orig_mod" in net._modules or isinstance(net, PARALLEL):
        net = net._orig_mod if "_orig_mod" in net._modules else net.module  # type: ignore[assignment]
    return net


def ticket_layers(net: nn.Module) -> dict[str, TicketLayer]:
    """The ticket layers of ``net`` by name, a shared one once, in the order of ``named_modules``."""
    return {name: module for name, module in net.named_modules() if isinstance(module, TicketLayer)}


@contextmanager
def one_selection(net: nn.Module) -> Iterator[None]:
    """Inside, layers of ``net`` that select together do so once: for reading several of them while no score changes."""
    selections = {id(layer.selection): layer.selection for layer in ticket_layers(net).values()}
    with ExitStack() as stack:
        for selection in selections.values():
            stack.enter_context(selection.open())
        yield


@contextmanager
def frozen(net: nn.Module) -> Iterator[nn.Module]:
    """Make the mask, gain and ticket weight of each layer of ``net`` once, for all forwards in evaluation mode inside.

    A forward in training mode is not affected. Contexts nest; the outer one's ticket weights stay in force.
    """
    layers = [layer for layer in ticket_layers(net).values() if layer.made is None]
    try:
        with one_selection(net):
            for layer in layers:
                layer.made = layer._make()
        yield net
    finally:
        for layer in layers:
            layer.made = None
