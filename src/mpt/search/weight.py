"""From mask to gain to ticket weight, and the straight-through gradient of the scores.

For a layer with frozen random weights ``w`` and mask ``m``:

    gain            g = sum(m |w|) / sum(m)
    ticket weight   b = g m sign(w)            every entry exactly -g, 0 or +g
    backward        dL/ds = dL/db * f          straight through the mask, f as below; w has no gradient

    score_grad      f (score_abs=True)         f (score_abs=False)
    "weight"        w sign(s)                  w               the authors' current code, the default
    "sign"          sign(w) sign(s)            sign(w)         the authors' first release
    "gain"          g sign(w) sign(s)          g sign(w)       section 2.2.1 of the paper

The gain is one number, or several in a shape that broadcasts to the weight's: (O, 1, 1, 1) for one per output channel
of a convolution. ``gains`` of a method says which:

    layer           g as above
    channel         g_j = sum(m_j |w_j|) / sum(m_j) for output channel j, 0 where it keeps nothing
    learned         g exp(c_j), with a learned number c_j for each output channel, which starts at 0

With power-propagation the score is ``S = s |s|^(a-1)``, and ``dL/ds = dL/dS a |s|^(a-1)`` with ``dL/dS = dL/db * f``.

``sign(0) = +1`` here and everywhere in mpt (``torch.sign`` gives 0).

Sources: Diffenderfer & Kailkhura, "Multi-Prize Lottery Ticket Hypothesis", ICLR 2021, section 2.2, algorithm 1; for
power-propagation, Cheng et al., "Efficient MPT".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mpt.search.fast import cuda, loops
from mpt.search.fast.memory import empty_like, entries

SCORE_GRADS = ("weight", "sign", "gain")
GAINS = ("layer", "channel", "learned")


def gain(weight: Tensor, mask: Tensor) -> Tensor:
    """``sum(m |w|) / sum(m)`` as a 0-d tensor of the dtype of ``weight``.

    The sum is in float64 (float32 on devices without it). So a layer of equal magnitudes has exactly that gain, and a
    ticket loaded from its file has the gain that was saved.
    """
    if arrays := loops.arrays(weight, mask):
        return (_kept_sum(*arrays) / int(np.count_nonzero(arrays[1]))).to(weight.dtype)
    if cuda.fits(weight, mask):
        return cuda.gain(weight.detach(), mask)
    kept = weight.abs().mul_(as_numbers(mask, weight.dtype))
    return (exact_sum(kept) / torch.count_nonzero(mask)).to(weight.dtype)


def channel_gains(weight: Tensor, mask: Tensor, *, axis: int) -> Tensor:
    """:func:`gain` of each index of ``axis`` by itself, 0 where it keeps nothing; 1 along all other axes of ``weight``.

    The sums are in float64 (float32 on devices without it), as in :func:`gain`.
    """
    others = [dim for dim in range(weight.dim()) if dim != axis]
    dtype = torch.float32 if weight.device.type == "mps" else torch.float64
    total = (weight.abs() * mask).sum(others, keepdim=True, dtype=dtype)
    return (total / mask.sum(others, keepdim=True).clamp_min(1)).to(weight.dtype)


def channel_shape(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """The shape of one gain for each index of ``axis``, which broadcasts to ``shape``: (O, 1, 1, 1) for axis 0."""
    return tuple(size if dim == axis else 1 for dim, size in enumerate(shape))


def _kept_sum(weight: np.ndarray, mask: np.ndarray) -> Tensor:
    """``sum(m |w|)``, 0-d float64, with NumPy's bits: compiled loops sum whole chunks, NumPy itself sums the rest."""
    whole = weight.size - weight.size % loops.CHUNK
    sums = loops.run(loops.kept_sums, weight, mask)
    rest = np.add.reduce(np.abs(weight[whole:]) * mask[whole:], dtype=np.float64)
    return torch.from_numpy(np.asarray(np.add.accumulate(np.append(np.concatenate(sums), rest))[-1]))  # one by one


def binary_weight(weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
    """``g m sign(w)``: exactly -g, 0 or +g, in the dtype and memory format of ``weight``."""
    if gain.dim() == 0 and cuda.fits(weight, mask):
        return cuda.binary_weight(weight.detach(), mask, gain)
    out = empty_like(weight)
    if gain.dim() == 0 and (arrays := loops.arrays(weight, mask, out)):
        loops.run(loops.binary_weight, *arrays, gain.numpy()[()])
        return out
    return signs(weight, magnitude=gain).mul_(as_numbers(mask, weight.dtype)).add_(0.0)  # turns -0.0 into +0.0


def masked_weight(weight: Tensor, mask: Tensor) -> Tensor:
    """``m w``, without -0.0."""
    return (weight * as_numbers(mask, weight.dtype)).add_(0.0)


def as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as zeros and ones of ``dtype``, through uint8, which torch converts ten times faster than bool."""
    return mask.view(torch.uint8).to(dtype)


def exact_sum(x: Tensor) -> Tensor:
    """Sum of all entries, 0-d, in float64 (float32 on devices without it)."""
    if x.device.type != "cpu":
        return x.sum(dtype=torch.float32 if x.device.type == "mps" else torch.float64)
    if torch.compiler.is_compiling():
        total: Tensor = _exact_sum_op(x)
        return total
    return torch.tensor(np.add.reduce(entries(x).numpy(), dtype=np.float64))  # torch would make a float64 copy of x


@torch.library.custom_op("mpt::exact_sum", mutates_args=())
def _exact_sum_op(x: Tensor) -> Tensor:
    """:func:`exact_sum` on the CPU as one operation, which torch.compile calls without tracing it."""
    return exact_sum(x)


@_exact_sum_op.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((), dtype=torch.float64)


def signs(x: Tensor, *, magnitude: Tensor | None = None) -> Tensor:
    """+1 where ``x >= 0``, else -1, times ``magnitude`` (0-d or broadcast), as a new tensor like ``x``."""
    one = torch.ones((), dtype=x.dtype, device=x.device) if magnitude is None else magnitude
    out = x.detach() + 0.0  # -0.0 + 0.0 = +0.0, so that sign(0) = +1
    return torch.copysign(one, out, out=out)


def score_gradient(
    grad: Tensor, weight: Tensor, scores: Tensor, gain: Tensor, *, score_grad: str, score_abs: bool
) -> Tensor:
    """dL/ds from dL/db by the table of this file; all tensors but ``gain`` have one shape."""
    one_factor = gain.dim() == 0 or score_grad != "gain"
    if one_factor and cuda.fits(grad, weight, scores):
        by = {"by_weight": score_grad == "weight", "by_gain": score_grad == "gain"}
        return cuda.gradient(grad, weight.detach(), scores.detach(), gain, score_abs=score_abs, **by)
    out = empty_like(weight)
    if one_factor and (arrays := loops.arrays(grad, weight, scores, out)):
        magnitude = gain.numpy()[()] if score_grad == "gain" else np.float32(1)
        loops.run(loops.gradient, *arrays, magnitude, score_grad != "weight", score_abs)
        return out
    ds = signs(scores).mul_(grad) if score_abs else grad.clone()
    if score_grad == "weight":
        return ds.mul_(weight)
    return ds.mul_(signs(weight, magnitude=gain if score_grad == "gain" else None))


def power_slope(scores: Tensor, *, power: float) -> Tensor:
    """dS/ds of ``S = s |s|^(a-1)``: ``a |s|^(a-1)``, of the shape of ``scores``."""
    return scores.abs().pow_(power - 1).mul_(power)


def root(score: float, *, power: float) -> float:
    """The ``s`` whose ``S = s |s|^(a-1)`` is ``score``: ``sign(S) |S|^(1/a)``."""
    return math.copysign(abs(score) ** (1 / power), score)
