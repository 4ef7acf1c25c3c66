"""Memory for what a search makes anew in every step, used again instead of given back.

A tensor of megabytes that is freed goes back to the system, which clears every page of the next one: that costs a step
more time than the search's formulas. So the memory of a layer's ticket weight and of its score gradient is kept, for as
long as the layer's weight lives, and lent again once no tensor uses it any more, whoever kept one: autograd, a view, an
optimizer, a user. Each loan is a NumPy array of its own over the memory, which the storage of the tensor made from it
holds as long as there is one: the loan has ended when its weak reference is dead.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from mpt.search.loops import LARGE

MOST = 2  # loans of a tensor: what is used longer than a step is not waited for, nor kept


class Loan(NamedTuple):
    """Memory, and the array through which a tensor uses it."""

    memory: Tensor
    user: weakref.ref[np.ndarray]


_loans = WeakTensorKeyDictionary()  # tensor -> the loans of what is like it, oldest first


def empty_like(x: Tensor) -> Tensor:
    """:func:`torch.empty_like`; of a large tensor on the CPU in memory that it has lent before, if that is free."""
    plain = type(x) in (Tensor, nn.Parameter) and x.is_cpu and x.numel() >= LARGE
    if not plain or torch.compiler.is_compiling():
        return torch.empty_like(x)
    loans: list[Loan] = _loans.setdefault(x, [])  # type: ignore[no-untyped-call]
    memory = _free(loans, x)
    array = memory.numpy()
    loans.append(Loan(memory, weakref.ref(array)))
    return torch.from_numpy(array)


def _free(loans: list[Loan], x: Tensor) -> Tensor:
    """Memory like ``x``: of one of ``loans``, which is taken out, or new, and then only as many stay as may be kept."""
    for _ in range(len(loans)):
        loan = loans.pop(0)  # so that no other thread lends it too
        if loan.user() is not None:
            loans.append(loan)
        elif loan.memory.shape == x.shape and loan.memory.stride() == x.stride() and loan.memory.dtype == x.dtype:
            return loan.memory
    del loans[: max(0, len(loans) - MOST + 1)]
    return torch.empty_like(x).detach()
