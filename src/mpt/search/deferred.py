"""Gradients of scores that are left to the optimizer: it gets dL/db, and computes dL/ds where it uses it.

Inside :func:`deferring` the backward of a ticket layer gives the scores no gradient, but adds itself to what waits.
This holds for layers whose method has the score gradient of :mod:`mpt.search.weight`; all others compute theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpt.search.methods import Method


class Waiting(NamedTuple):
    """A backward of a ticket layer whose scores have no gradient yet."""

    method: Method
    grad: Tensor  # dL/db, in the dtype of the ticket weight
    weight: Tensor
    scores: Tensor
    gain: Tensor | float

    def gradient(self) -> Tensor:
        """dL/ds."""
        grad = self.grad.to(self.weight.dtype)
        return self.method.score_gradient(grad, self.weight, self.scores, as_tensor(self.gain))

    def has_one_gain(self) -> bool:
        """Whether the gain is one number."""
        return not isinstance(self.gain, Tensor) or self.gain.dim() == 0


def as_tensor(gain: Tensor | float) -> Tensor:
    """A gain that may be that of a choice, a number that is not rounded yet."""
    return gain if isinstance(gain, Tensor) else torch.tensor(gain, dtype=torch.float32)


_open: dict[int, list[Waiting]] = {}  # identity of scores -> at most one


@contextmanager
def deferring(scores: Iterable[nn.Parameter]) -> Iterator[dict[int, list[Waiting]]]:
    """Inside, backwards of the layers of ``scores`` wait; gives the lists, by identity, of at most one each."""
    own: dict[int, list[Waiting]] = {id(one): [] for one in scores}
    _open.update(own)
    try:
        yield own
    finally:
        for key in own:
            _open.pop(key, None)


def defer(waiting: Waiting) -> Tensor | None:
    """Let ``waiting`` wait, or return dL/ds if it may not: that of the earlier one too, if one waits already."""
    if (line := _open.get(id(waiting.scores))) is None:
        return waiting.gradient()
    if not line and _has_plain_gradient(waiting.method):
        line.append(waiting)
        return None
    earlier = [one.gradient() for one in line]
    del _open[id(waiting.scores)]
    line.clear()
    return sum(earlier, start=waiting.gradient())  # scores are used twice


def _has_plain_gradient(method: Method) -> bool:
    kind = type(method)
    return kind.score_gradient is Method.score_gradient and kind.source is Method.source and method.power == 1
