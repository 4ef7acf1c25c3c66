"""Layers that compute with a ticket: a torch layer whose weight is frozen and whose scores are learned.

A ticket layer is the torch layer of the same kind with one change: where that one uses ``weight``, this one uses
``ticket_weight()``. Its state dict has ``weight`` (frozen) and ``scores`` (learned), both of the layer's own shape.

In training the mask is selected anew in every forward, so that it is always that of the current scores, whoever wrote
them: an optimizer (fused ones do not raise a tensor's version counter), ``load_state_dict`` or a write to ``.data``.
Where the layers of a network select together (:mod:`mpt.search.selection`), that is once in every forward of the
network. In evaluation the same holds, except inside :func:`frozen`, where each layer's ticket weight is made once.

:class:`BinaryActivation` is the other half of MPT-1/1, networks whose activations have one bit too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpt.search.weight import TicketWeight, signs

if TYPE_CHECKING:
    from mpt.search.methods import Method
    from mpt.search.selection import Selection


class Made(NamedTuple):
    """What :func:`frozen` keeps of a layer."""

    mask: Tensor  # bool, shape of the weight
    gain: Tensor  # 0-d
    ticket_weight: Tensor  # shape of the weight


class TicketLayer(nn.Module):
    """Mixin in front of a torch layer: scores beside the weight, and the ticket weight made of both.

    Attributes:
        weight: frozen random weights.
        scores: learned, one per weight, same shape.
        method: the search method, shared by the layers of a network.
        num_kept: how many weights the mask keeps, where the layer selects for itself.
        selection: of the whole network, None where the layer selects for itself; ``place`` is the layer's in it.
        threshold: what the importance of a kept weight exceeds, 0-d, where the network has a calibrated one.
    """

    weight: Any
    scores: nn.Parameter
    bias: Any
    method: Method
    num_kept: int
    selection: Selection | None
    place: int
    threshold: Tensor | None
    made: Made | None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "made": None}  # a copy made inside frozen is not frozen itself

    def mask(self) -> Tensor:
        """Mask of the current scores (inside :func:`frozen`: of those at its start), bool, shape of the weight."""
        return self.current().mask

    def gain(self) -> Tensor:
        """Scale of the layer, 0-d: the mean magnitude of the kept weights."""
        return self.current().gain

    def ticket_weight(self) -> Tensor:
        """What the layer computes with, shape of the weight; in training, differentiable in the scores."""
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
        """Mask of the current scores."""
        if self.selection is None:
            return self.method.mask(self.scores, kept=self.num_kept)
        return self.selection.mask(self)


class _TicketConv(TicketLayer):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.ticket_weight()
        with signs_made_again(x):
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


class BinaryActivation(nn.Module):
    """The binary activation of MPT-1/1, on a tensor of any shape.

        forward     sign(x), with sign(0) = +1
        backward    dL/dx = dL/dy * max(0, 2 (1 - |x| / t) / t)

    The second factor is the slope of the quadratic spline that rises from -1 at ``-t`` to +1 at ``t``.

    Args:
        t: half the width of the spline, above 0; 1 in all experiments of the paper.

    Source: Diffenderfer & Kailkhura 2021, section 2.2.2.
    """

    def __init__(self, t: float = 1.0) -> None:
        super().__init__()
        if not 0 < t < float("inf"):
            raise ValueError(f"spline_t is half the width of the sign's spline gradient and must be above 0, got {t}")
        self.t = t

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Sign.apply(x, self.t)
        return out

    def extra_repr(self) -> str:
        return f"t={self.t:g}"


class _Sign(torch.autograd.Function):
    """The two formulas of :class:`BinaryActivation`; it keeps its input, see :func:`signs_made_again`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.t = t
        return signs(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        slope = x.abs().mul_(-2 / ctx.t**2).add_(2 / ctx.t).clamp_(min=0)
        return slope.mul_(grads[0]), None


def signs_made_again(x: Tensor) -> AbstractContextManager[Any]:
    """Inside, an operation on ``x`` does not keep ``x`` for its backward where that is the output of a sign.

    The sign keeps its own input anyway, and the backward makes the same signs of it once more: one tensor an
    activation instead of two. Anything else is kept as ever.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return nullcontext()
    if not isinstance(x.grad_fn, _Sign._backward_cls):  # type: ignore[attr-defined]
        return nullcontext()
    (before,), address = x.grad_fn.saved_tensors, x.data_ptr()  # type: ignore[union-attr]
    return torch.autograd.graph.saved_tensors_hooks(  # which stay with the graph, so they may not hold x
        lambda saved: None if saved.data_ptr() == address else saved,
        lambda kept: signs(before) if kept is None else kept,
    )


# torch layer -> the same with a ticket weight; the other way round by KINDS below
TICKET_LAYERS: dict[type[nn.Module], type[TicketLayer]] = {
    nn.Conv1d: TicketConv1d,
    nn.Conv2d: TicketConv2d,
    nn.Conv3d: TicketConv3d,
    nn.ConvTranspose2d: TicketConvTranspose2d,
    nn.Linear: TicketLinear,
}
PARALLEL = nn.DataParallel, nn.parallel.DistributedDataParallel
PLAIN_LAYERS: dict[type[TicketLayer], type[nn.Module]] = {ticket: plain for plain, ticket in TICKET_LAYERS.items()}


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
            if selection is not None:
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
