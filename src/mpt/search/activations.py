"""The binary activation of MPT-1/1, and how its layers save memory: autograd keeps one tensor per activation, not two.

A sign saves its own input for its backward. The layer behind the sign would save the signs as well; instead, its
backward recomputes them (:func:`recompute_signs`). A max-pool in front of a sign needs only the shape of its input
(:class:`MaxPool2d`). Both give the same bits as torch's own operations.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mpt.search.weight import signs
from mpt.values import check_number, of_python

SPLINE_T = "half the width of the sign's spline gradient and must be above 0"


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
        self.t = of_python(t)
        check_number("spline_t", SPLINE_T, self.t, above=0)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # in operations that other formats have, too: ONNX has no copysign
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        out: Tensor = _Sign.apply(x, self.t)
        return out

    def extra_repr(self) -> str:
        return f"t={self.t:g}"


class _Sign(torch.autograd.Function):
    """The two formulas of :class:`BinaryActivation`."""

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


def recompute_signs(x: Tensor) -> AbstractContextManager[Any]:
    """Inside, autograd does not save ``x`` if a sign produced it: backward recomputes the signs from the sign's input.

    Any other tensor is saved as usual.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return nullcontext()
    if not isinstance(x.grad_fn, _Sign._backward_cls):  # type: ignore[attr-defined]
        return nullcontext()
    (before,) = x.grad_fn.saved_tensors  # type: ignore[union-attr]
    return _without_saving(x, lambda: signs(before))


class MaxPool2d(nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d` that saves no input for its backward, which needs only the shape; the same numbers.

    Behind a ReLU the input is saved anyway, as the ReLU's own; behind a convolution nothing else needs it.
    """

    @classmethod
    def like(cls, pool: nn.MaxPool2d) -> MaxPool2d:
        """A pool with the settings of ``pool``."""
        settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.return_indices, pool.ceil_mode)
        return cls(*settings)

    def forward(self, x: Tensor) -> Any:
        # on other devices the backward may read the input; a subclass of Tensor, or an empty one, has no address
        plain = type(x) is Tensor and x.numel() > 0 and x.device.type in ("cpu", "cuda")
        if not plain or not x.requires_grad or torch.compiler.is_compiling():
            return super().forward(x)
        shape, strides, empty = x.shape, x.stride(), x.detach().new_empty(0)
        with _without_saving(x, lambda: empty.new_empty_strided(shape, strides)):
            return super().forward(x)


def _without_saving(x: Tensor, restore: Callable[[], Tensor]) -> AbstractContextManager[Any]:
    """Inside, autograd saves nothing for ``x``; ``restore()`` takes its place in backward."""
    address = x.data_ptr()  # the hooks stay with the graph, so they must not hold x
    return torch.autograd.graph.saved_tensors_hooks(
        lambda saved: None if saved.data_ptr() == address else saved,
        lambda saved: restore() if saved is None else saved,
    )
