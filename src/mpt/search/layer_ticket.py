"""The ticket of one layer, and its forward and backward: the formulas of a method as one operation of autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mpt.search.deferred import Waiting, as_tensor, defer
from mpt.search.fast.choice import Choice

if TYPE_CHECKING:
    from mpt.search.methods import Method


class LayerTicket(NamedTuple):
    """The ticket of one layer: mask, gain and ticket weight at one moment."""

    mask: Tensor  # bool, shape of the weight
    gain: Tensor  # 0-d, or several gains in a shape that broadcasts to the weight's
    ticket_weight: Tensor  # shape of the weight

    @property
    def mean_gain(self) -> float:
        """The gain as one number, for tables and metrics: the mean where there are several."""
        return float(self.gain.mean())

    def magnitudes(self) -> Tensor | None:
        """One magnitude per gain, in the gain's shape; None if kept weights that share a gain differ in magnitude.

        A gain whose weights are all pruned has magnitude 0.
        """
        kept = torch.where(self.mask, self.ticket_weight.detach().abs(), 0)
        shape = (1,) * (kept.dim() - self.gain.dim()) + tuple(self.gain.shape)
        shared = [dim for dim, size in enumerate(shape) if size == 1]  # along which the gain is broadcast
        largest = kept.amax(shared, keepdim=True) if shared else kept
        return largest.reshape(self.gain.shape) if bool((kept == largest)[self.mask].all()) else None


class TicketWeight(torch.autograd.Function):
    """Computes the ticket weight from frozen weights and a mask; the backward passes the gradient straight through.

    Both follow the formulas of the method. The mask may be a choice instead (:mod:`mpt.search.quick`), which gives the
    same ticket weight, rounded to ``dtype`` if that is given.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        weight: Tensor,
        method: Method,
        mask: Tensor | Choice,
        slope: Tensor | None = None,
        axis: int = 0,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        ctx.method = method
        if isinstance(mask, Choice):
            ctx.gain = mask.gain()
            ctx.save_for_backward(scores, weight, None, slope)
            return mask.ticket_weight(weight, ctx.gain, dtype=dtype or weight.dtype)
        source = method.source(weight, scores)
        gain = method.layer_gain(source, mask, axis=axis)
        ctx.save_for_backward(scores, weight, gain, slope)
        return method.ticket_weight(source, mask, gain)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scores, weight, gain, slope = ctx.saved_tensors
        gain = ctx.gain if gain is None else gain  # that of a choice
        searched, trained = ctx.needs_input_grad[:2]  # a search needs the first, fine-tuning the second
        if searched and not trained and slope is None and not torch.compiler.is_compiling():
            source = ctx.method.source(weight, scores)
            return defer(Waiting(ctx.method, grads[0], source, scores, gain)), None, None, None, None, None, None
        grad, gain = grads[0].to(weight.dtype), as_tensor(gain)
        source = ctx.method.source(weight, scores) if searched else weight
        ds = ctx.method.score_gradient(grad, source, scores, gain) if searched else None
        ds = ds if ds is None or slope is None else ds * slope
        dw = ctx.method.weight_gradient(grad, scores, gain) if trained else None
        return ds, dw, None, None, None, None, None
