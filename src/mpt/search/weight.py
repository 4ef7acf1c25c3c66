"""Mask to gain to ticket weight, and the straight-through gradient of the scores.

Of a layer's frozen random weights ``w`` and its mask ``m``:

    gain            g = sum(m |w|) / sum(m)
    ticket weight   b = g m sign(w)            every entry exactly -g, 0 or +g
    backward        dL/ds = dL/db * f          straight through the mask, f as below; w gets no gradient

    score_grad      f (score_abs=True)         f (score_abs=False)
    "weight"        w sign(s)                  w               the authors' current code, the default
    "sign"          sign(w) sign(s)            sign(w)         their first release
    "gain"          g sign(w) sign(s)          g sign(w)       section 2.2.1 of the paper

With power-propagation the score is ``S = s |s|^(a-1)``, and ``dL/ds = dL/dS a |s|^(a-1)``, where ``f`` gives dL/dS.

``sign(0) = +1`` here and everywhere in mpt (``torch.sign`` gives 0).

Source: Diffenderfer & Kailkhura, "Multi-Prize Lottery Ticket Hypothesis", ICLR 2021, section 2.2, algorithm 1; of
power-propagation Cheng et al., "Efficient MPT".
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mpt.search.fast import loops
from mpt.search.fast.memory import empty_like, entries

SCORE_GRADS = ("weight", "sign", "gain")


def gain(weight: Tensor, mask: Tensor) -> Tensor:
    """``sum(m |w|) / sum(m)`` as a 0-d tensor of the dtype of ``weight``.

    Summed in float64 (float32 where a device has none), so that a layer of equal magnitudes has exactly that gain and
    a ticket read back from its file has the gain that was written.
    """
    if found := loops.arrays(weight, mask):
        return (_kept_sum(*found) / int(np.count_nonzero(found[1]))).to(weight.dtype)
    kept = weight.abs().mul_(as_numbers(mask, weight.dtype))
    return (exact_sum(kept) / torch.count_nonzero(mask)).to(weight.dtype)


def _kept_sum(weight: np.ndarray, mask: np.ndarray) -> Tensor:
    """``sum(m |w|)``, 0-d float64, to the bit what NumPy adds up: whole chunks compiled, the rest by NumPy itself."""
    whole = weight.size - weight.size % loops.CHUNK
    sums = loops.run(loops.kept_sums, weight, mask)
    rest = np.add.reduce(np.abs(weight[whole:]) * mask[whole:], dtype=np.float64)
    return torch.from_numpy(np.asarray(np.add.accumulate(np.append(np.concatenate(sums), rest))[-1]))  # one by one


def binary(weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
    """``g m sign(w)``: exactly -g, 0 or +g, in the dtype and memory format of ``weight``."""
    out = empty_like(weight)
    if gain.numel() == 1 and (found := loops.arrays(weight, mask, out)):
        loops.run(loops.binary, *found, gain.numpy()[()])
        return out
    return signs(weight, magnitude=gain).mul_(as_numbers(mask, weight.dtype)).add_(0.0)  # no -0.0 is left


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """``m w``, without -0.0."""
    return (weight * as_numbers(mask, weight.dtype)).add_(0.0)


def as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as zeros and ones of ``dtype``; by way of uint8, which torch converts ten times faster than bool."""
    return mask.view(torch.uint8).to(dtype)


def exact_sum(x: Tensor) -> Tensor:
    """Sum of all entries, 0-d, added up in float64 (float32 where a device has none)."""
    if x.device.type != "cpu":
        return x.sum(dtype=torch.float32 if x.device.type == "mps" else torch.float64)
    if torch.compiler.is_compiling():
        total: Tensor = _exact_sum_op(x)
        return total
    return torch.tensor(np.add.reduce(entries(x).numpy(), dtype=np.float64))  # torch would make a float64 copy of x


@torch.library.custom_op("mpt::exact_sum", mutates_args=())
def _exact_sum_op(x: Tensor) -> Tensor:
    """:func:`exact_sum` on the CPU as one operation, which torch.compile calls without looking into it."""
    return exact_sum(x)


@_exact_sum_op.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((), dtype=torch.float64)


def signs(x: Tensor, *, magnitude: Tensor | None = None) -> Tensor:
    """+1 where ``x >= 0``, else -1, times ``magnitude`` (0-d), as a new tensor of the dtype of ``x``."""
    one = torch.ones((), dtype=x.dtype, device=x.device) if magnitude is None else magnitude
    out = x.detach() + 0.0  # -0.0 + 0.0 = +0.0, so that sign(0) = +1
    return torch.copysign(one, out, out=out)


def score_gradient(
    grad: Tensor, weight: Tensor, scores: Tensor, gain: Tensor, *, score_grad: str, score_abs: bool
) -> Tensor:
    """dL/ds from dL/db by the table of this file; all of one shape, ``gain`` 0-d."""
    out = empty_like(weight)
    if gain.numel() == 1 and (found := loops.arrays(grad, weight, scores, out)):
        magnitude = gain.numpy()[()] if score_grad == "gain" else np.float32(1)
        loops.run(loops.gradient, *found, magnitude, score_grad != "weight", score_abs)
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
