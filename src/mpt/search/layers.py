"""Layers that compute with a ticket: a torch layer whose weight is frozen and whose scores are learned.

A ticket layer is the torch layer of the same kind with one change: it computes with ``ticket_weight()`` in place of
``weight``. Its state dict has ``weight`` (frozen) and ``scores`` (learned), both of the shape of the layer's weight.

Every forward in training selects the mask again, so it always follows from the current scores, whether an optimizer,
``load_state_dict`` or a write to ``.data`` changed them. (A tensor's version counter would not tell: fused optimizers
do not raise it.) Layers that select together (:mod:`mpt.search.selection`) do so once per forward of the network.
Evaluation works the same way, except inside :func:`frozen`, which computes each layer's ticket weight once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpt.search.activations import recompute_signs
from mpt.search.fast.choice import Choice
from mpt.search.fast.loops import LARGE
from mpt.search.layer_ticket import LayerTicket, TicketWeight
from mpt.search.mask import select
from mpt.search.quick import autocast_dtype, choose_own
from mpt.search.wrapped import unwrap

if TYPE_CHECKING:
    from mpt.search.methods import Method


class Selection:
    """Decides which weights are kept: here, each layer selects its own number of them.

    :mod:`mpt.search.selection` has the selections that look beyond one layer.

    Attributes:
        least: the least number of weights for which :meth:`choose` looks.
    """

    least: int = LARGE

    def mask(self, layer: TicketLayer) -> Tensor:
        """Mask of the current scores of ``layer``, bool, of the shape of its weight."""
        if layer.pattern is None:
            return layer.method.mask(layer.scores, kept=layer.num_kept)
        values, absolute = layer.ranking()
        return select(values, kept=layer.num_kept, absolute=absolute)

    def choose(self, layer: TicketLayer) -> Choice | None:
        """What :meth:`mask` keeps, in fewer passes; None where these cannot tell."""
        if layer.num_kept == layer.scores.numel():
            return None
        return choose_own(layer, kept=layer.num_kept, least=self.least)

    def open(self) -> AbstractContextManager[None]:
        """Inside, no score changes, so layers that select together do so only once."""
        return nullcontext()

    def empty(self, layer: TicketLayer, name: str) -> ValueError:
        """The error for a mask that keeps nothing of ``layer``."""
        return ValueError(
            f"{type(layer.method).__name__} keeps none of the {layer.weight.numel()} weights of layer {name!r}: "
            "its mask must keep at least one"
        )


LAYERWISE, BESIDE_LARGE = Selection(), Selection()
BESIDE_LARGE.least = 1  # loops that a large layer loads pay for small ones too


class TicketLayer(nn.Module):
    """Mixin in front of a torch layer: adds scores, and computes the ticket weight from them and the weight.

    Attributes:
        weight: frozen random weights.
        scores: learned, one per weight, same shape.
        method: the search method, shared by the layers of a network.
        num_kept: number of weights that the mask keeps if the layer selects for itself.
        selection: selects the mask; ``place`` is the layer's index in it.
        pattern: int8, -1 where always pruned and +1 where always kept (:attr:`mpt.Method.pattern`); None without one.
        threshold: number that the importance of a kept weight exceeds, 0-d; None unless the selection is calibrated.
        log_gain: learned, one per output channel, the factor exp(c) of its gain; None unless the gains are learned.
        frozen_ticket: what evaluation inside :func:`frozen` computes with; None outside it.
        ramp_scale: factor of the ticket weight in this epoch, 1 but for a ramp (:meth:`mpt.Method.ramp_scale`).
        channels: the axis of the weight's output channels.
    """

    channels: ClassVar[int] = 0

    weight: Any
    scores: nn.Parameter
    bias: Any
    method: Method
    num_kept: int
    selection: Selection
    place: int
    pattern: Tensor | None
    threshold: Tensor | None
    log_gain: nn.Parameter | None
    frozen_ticket: LayerTicket | None
    ramp_scale: float = 1.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "frozen_ticket": None}  # a copy of a frozen network is not frozen itself

    def mask(self) -> Tensor:
        """Mask of the current scores (inside :func:`frozen`, of the scores at its start), bool, shape of the weight."""
        return self.ticket().mask

    def gain(self) -> Tensor:
        """Scale of the layer: the mean magnitude of the kept weights, 0-d, or as the method's ``gain`` shapes it."""
        return self.ticket().gain

    def ticket_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight that the layer computes with, shape of ``weight``; in training, differentiable in the scores.

        It may be of ``dtype``, to which the caller will cast it, instead of the dtype of ``weight``.
        """
        if "weight" in self.__dict__:  # a module that reads it is running, see mpt.search.reading
            return self.__dict__["weight"]  # type: ignore[no-any-return]
        if self.frozen_ticket is not None and not self.training:
            return self.frozen_ticket.ticket_weight
        sampled, factor = self.method.sample(self.scores) if self.training else None, self._factor()
        dtype = dtype if factor is None else None
        choice = self.selection.choose(self) if sampled is None else None
        mask, slope = sampled or (choice or self._select(), None if self.pattern is None else self.pattern == 0)
        weight: Tensor = TicketWeight.apply(self.scores, self.weight, self.method, mask, slope, self.channels, dtype)
        return weight if factor is None else weight * factor

    def _computing_weight(self) -> Tensor:
        """:meth:`ticket_weight` for an operation to which autocast applies."""
        dtype = autocast_dtype(self.weight)
        return self.ticket_weight() if dtype is None else self.ticket_weight(dtype)

    def ticket(self) -> LayerTicket:
        """Mask, gain and ticket weight of the current scores, or inside :func:`frozen` of the scores at its start.

        They are not differentiable.
        """
        frozen_ticket = None if self.training else self.frozen_ticket
        return self._compute_ticket() if frozen_ticket is None else frozen_ticket

    def _compute_ticket(self) -> LayerTicket:
        """:meth:`ticket` of the current scores, even inside :func:`frozen`."""
        with torch.inference_mode(False), torch.no_grad():  # autograd could not save an inference tensor
            mask, source, factor = self._select(), self.method.source(self.weight, self.scores), self._factor()
            gain = self.method.layer_gain(source, mask, axis=self.channels)
            weight = self.method.ticket_weight(source, mask, gain)
            return (
                LayerTicket(mask, gain, weight) if factor is None else LayerTicket(mask, gain * factor, weight * factor)
            )

    def ranking(self) -> tuple[Tensor, bool]:
        """What the selection ranks, and whether by magnitude: :meth:`mpt.Method.ranking` under the layer's pattern."""
        values, absolute = self.method.ranking(self.scores)
        if self.pattern is None:
            return values, absolute
        most = torch.finfo(values.dtype).max
        values = (values.abs() if absolute else values).masked_fill(self.pattern < 0, -most)
        return values.masked_fill_(self.pattern > 0, most), False

    def importance(self) -> Tensor:
        """The importance of each weight: :meth:`mpt.Method.importance` under the layer's pattern."""
        return self.method.importance(self.scores) if self.pattern is None else self.ranking()[0]

    def _factor(self) -> Tensor | float | None:
        """What multiplies the method's ticket weight: the ramp's scale, and the learned factor of each channel."""
        if self.log_gain is not None:
            return self.ramp_scale * self.log_gain.exp()
        return None if self.ramp_scale == 1 else self.ramp_scale

    @torch.no_grad()
    def _select(self) -> Tensor:
        return self.selection.mask(self)


class _TicketConv(TicketLayer):
    def forward(self, x: Tensor) -> Tensor:
        weight = self._computing_weight()
        with recompute_signs(x):
            out: Tensor = self._conv_forward(x, weight, self.bias)  # type: ignore[operator]
        return out


class TicketConv1d(_TicketConv, nn.Conv1d):
    """:class:`torch.nn.Conv1d` with a ticket weight; (N, C, L) -> (N, C', L')."""


class TicketConv2d(_TicketConv, nn.Conv2d):
    """:class:`torch.nn.Conv2d` with a ticket weight; (N, C, H, W) -> (N, C', H', W')."""


class TicketConv3d(_TicketConv, nn.Conv3d):
    """:class:`torch.nn.Conv3d` with a ticket weight; (N, C, D, H, W) -> (N, C', D', H', W')."""


class _TicketConvTranspose(TicketLayer):
    """In several groups, output channels that have one index within their groups share a gain."""

    channels = 1

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        own: Any = self
        stride, padding, dilation, dims = own.stride, own.padding, own.dilation, len(own.kernel_size)
        extra = own._output_padding(x, output_size, stride, padding, own.kernel_size, dims, dilation)
        transposed: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        out: Tensor = transposed(x, self._computing_weight(), self.bias, stride, padding, extra, own.groups, dilation)
        return out


class TicketConvTranspose1d(_TicketConvTranspose, nn.ConvTranspose1d):
    """:class:`torch.nn.ConvTranspose1d` with a ticket weight; (N, C, L) -> (N, C', L')."""


class TicketConvTranspose2d(_TicketConvTranspose, nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` with a ticket weight; (N, C, H, W) -> (N, C', H', W')."""


class TicketConvTranspose3d(_TicketConvTranspose, nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d` with a ticket weight; (N, C, D, H, W) -> (N, C', D', H', W')."""


class TicketLinear(TicketLayer, nn.Linear):
    """:class:`torch.nn.Linear` with a ticket weight; (..., C) -> (..., C')."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self._computing_weight()
        if x.dim() < 3 or x.is_contiguous():
            return F.linear(x, weight, self.bias)
        # torch multiplies a strided batch as one matrix only if the weight requires a gradient, and rounds differently
        # otherwise: one matrix always, so that training, evaluation and to_dense give the same bits
        out = F.linear(x.flatten(0, -2), weight).view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


# torch layer -> its ticket layer; kind_of is the inverse
TICKET_LAYERS: dict[type[nn.Module], type[TicketLayer]] = {
    nn.Conv1d: TicketConv1d,
    nn.Conv2d: TicketConv2d,
    nn.Conv3d: TicketConv3d,
    nn.ConvTranspose1d: TicketConvTranspose1d,
    nn.ConvTranspose2d: TicketConvTranspose2d,
    nn.ConvTranspose3d: TicketConvTranspose3d,
    nn.Linear: TicketLinear,
}


def kind_of(layer: nn.Module) -> type[nn.Module] | None:
    """The torch class, among those that can be searched, that ``layer`` belongs to; None if it belongs to none."""
    return next((kind for kind in TICKET_LAYERS if isinstance(layer, kind)), None)


def ticket_layers(net: nn.Module) -> dict[str, TicketLayer]:
    """The ticket layers of ``net`` by name, in the order of ``named_modules``; a shared layer comes once."""
    return {name: module for name, module in net.named_modules() if isinstance(module, TicketLayer)}


def searched_tensors(net: nn.Module) -> set[int]:
    """The identities of the tensors of a search: weight, scores, threshold and learned gains of the ticket layers."""
    layers = ticket_layers(net).values()
    return {id(x) for layer in layers for x in (layer.weight, layer.scores, layer.threshold, layer.log_gain)}


@contextmanager
def one_selection(net: nn.Module) -> Iterator[None]:
    """Inside, layers of ``net`` that select together do so only once: to read several layers while no score changes."""
    selections = {id(layer.selection): layer.selection for layer in ticket_layers(net).values()}
    with ExitStack() as stack:
        for selection in selections.values():
            stack.enter_context(selection.open())
        yield


@contextmanager
def frozen(net: nn.Module) -> Iterator[nn.Module]:
    """Compute the ticket weight of each layer of ``net`` once; all forwards in evaluation mode inside use it.

    A forward in training mode is not affected. Contexts nest: inside two of them the outer one's ticket weights hold.
    """
    layers = [layer for layer in ticket_layers(unwrap(net)).values() if layer.frozen_ticket is None]
    try:
        with one_selection(net):
            for layer in layers:
                layer.frozen_ticket = layer._compute_ticket()
        yield net
    finally:
        for layer in layers:
            layer.frozen_ticket = None
