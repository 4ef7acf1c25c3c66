"""How one pass moves a score: the updates of torch's fused optimizers on a CPU, to the same bits.

With ``d`` the gradient of a score, ``l`` the weight decay and ``r`` the learning rate, in float32:

    SGD      d = d + l s                              v = u v + d
             s = s - r v                              or s - r (d + u v) for nesterov
    Adam     d = d + l s                              or s = (1 - r l) s where the decay is decoupled (AdamW)
             m = m + (1 - a) (d - m)                  or d - a (d - m) where 1 - a is at least a half
             q = b q + ((1 - b) d) d
             s = s - (r / (1 - a^t)) m / (sqrt(q) / sqrt(1 - b^t) + e)

Every sum with a product is a fused multiply-add, rounded once, but ``u v + d`` and the last line of Adam, whose product
is divided before it is subtracted; in ``q`` the fused product is the last. So compilers make torch's own kernels for
processors that have this instruction. :func:`is_exact` tries whether this torch computes the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mpt.search.fast import native


@dataclass(frozen=True)
class Sgd:
    """SGD with momentum."""

    moments: ClassVar = ("momentum_buffer",)  # v, as torch calls it
    lr: float
    momentum: float
    decay: float
    nesterov: bool

    def numbers(self) -> list[int]:
        """What :func:`mpt.search.fast.descent_loop.descend` needs of it: which update, and its numbers."""
        return [0, *_bits(-self.lr, self.momentum, self.decay), self.nesterov]

    def step_of_torch(self, scores: Tensor, grad: Tensor, moments: tuple[Tensor, ...]) -> None:
        """Torch's fused step, in place."""
        torch._fused_sgd_(
            [scores],
            [grad],
            [*moments],
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.decay,
            nesterov=self.nesterov,
            dampening=0.0,
            maximize=False,
            is_first_step=False,
        )


@dataclass(frozen=True)
class Adam:
    """Adam, or AdamW."""

    moments: ClassVar = ("exp_avg", "exp_avg_sq")  # m and q, as torch calls them
    lr: float
    betas: tuple[float, float]  # a and b
    eps: float
    decay: float
    decoupled: bool
    step: float  # t, from 1

    def numbers(self) -> list[int]:
        """What :func:`mpt.search.fast.descent_loop.descend` needs of it: which update, and its numbers."""
        (a, b), t = self.betas, self.step
        kept = _one_minus(self.lr, self.decay) if self.decoupled else 1.0
        decay = 0.0 if self.decoupled else self.decay
        weight = np.float32(1 - a)
        small = bool(weight < np.float32(0.5))
        size, root = -(self.lr / (1 - a**t)), math.sqrt(1 - b**t)  # as torch, in float64
        numbers = (size, weight if small else weight - np.float32(1), b, 1 - b, root, self.eps, decay, kept)
        return [1, *_bits(*numbers), small]

    def step_of_torch(self, scores: Tensor, grad: Tensor, moments: tuple[Tensor, ...]) -> None:
        """Torch's fused step, in place."""
        step = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        step(
            [scores],
            [grad],
            [moments[0]],
            [moments[1]],
            [],
            [torch.tensor(self.step)],
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )


Update = Sgd | Adam
TRIALS: dict[type[Update], list[Update]] = {  # where a processor's instructions could round in another way
    Sgd: [Sgd(0.1, 0.9, decay, nesterov) for decay, nesterov in product((0.0, 0.01), (False, True))],
    Adam: [
        Adam(0.01, betas, 1e-8, decay, decoupled, step)
        for betas, decay, decoupled, step in product(
            ((0.9, 0.999), (0.3, 0.9)), (0.0, 0.01), (False, True), (1.0, 1000.0)
        )
    ],
}


def _bits(*numbers: float | np.float32) -> list[int]:
    return [native.bits(np.float32(x)) for x in numbers]


@lru_cache(maxsize=8)
def _one_minus(x: float, y: float) -> float:
    """``1 - x y``, rounded once, as in torch's kernels."""
    return float(1 - Fraction(x) * Fraction(y))
