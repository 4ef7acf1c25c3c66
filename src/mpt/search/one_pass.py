"""Optimizers of torch's that move the scores of ticket layers in one pass over memory, to the same bits.

A search that calls ``optimizer.step(closure)``, as Lightning does, computes forward and backward inside the step. Then
nobody needs the gradient of the scores but the optimizer: the backward leaves it dL/db (:mod:`mpt.search.deferred`),
and one compiled loop computes the gradient, moves scores and their state, and counts the scores for the next threshold
(:mod:`mpt.search.fast.descent`). ``scores.grad`` stays None in such a step.

In all other cases torch moves the scores: without a closure, in the first step of a run, unless ``fused``, with options
that the loop does not know, on other devices, in several processes, for scores with hooks, and for parameters that are
no scores. State and its names are those of torch's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mpt.search.deferred import Waiting, deferring
from mpt.search.fast.descent import Layer, Rule, descend, fits
from mpt.search.fast.updates import Update


class OnePass(torch.optim.Optimizer):
    """In front of an optimizer of torch's, whose arguments it takes; ``fused=True`` and a closure for the one pass."""

    kind: ClassVar[type[Update]]

    def knows(self, group: dict[str, Any]) -> bool:
        """Whether the loop knows all options of ``group``."""
        raise NotImplementedError

    def update(self, group: dict[str, Any], state: dict[str, Any]) -> Update:
        """How the scores of ``group`` with this ``state`` move in the step that begins, of which the state knows."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. The ``closure``, if any, computes the gradients once: forward, ``zero_grad`` and backward.

        One that reads or clips the gradients of scores needs ``fused=False``: in one pass they are not there yet.
        """
        if closure is None:
            self._step_of_torch()
            return None
        with deferring(self._deferrable()) as lines, torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            self._descend(group, [(p, line[0]) for p in group["params"] if (line := lines.get(id(p)))])
        self._step_of_torch()
        return loss

    def _step_of_torch(self) -> None:
        """The step of torch's class, without the hooks, which this step has itself."""
        theirs: Any = super().step
        inspect.unwrap(theirs.__func__)(self)

    def _deferrable(self) -> Iterator[nn.Parameter]:
        """The parameters that one pass may move, if they turn out to be scores."""
        if _has_processes() or getattr(self, "grad_scale", None) is not None:
            return
        for group in self.param_groups:
            if group["fused"] and not group["maximize"] and not group["differentiable"] and self.knows(group):
                yield from (p for p in group["params"] if p.is_cpu and self._has_started(p) and not _has_hooks(p))

    def _has_started(self, p: nn.Parameter) -> bool:
        return p in self.state and all(self.state[p].get(name) is not None for name in self.kind.moments)

    def _descend(self, group: dict[str, Any], waiting: list[tuple[nn.Parameter, Waiting]]) -> None:
        """Move the scores that fit; give the others their gradient."""
        layers: dict[Rule, list[Layer]] = {}
        for p, one in waiting:
            factor, one_gain = one.method.score_grad, one.has_one_gain()
            magnitude = float(one.gain) if factor == "gain" and one_gain else 1.0
            state = self.state[p]
            layer = Layer(one.grad, one.weight, p, tuple(state[name] for name in self.kind.moments), magnitude)
            if p.grad is None and (one_gain or factor != "gain") and fits(layer, self.kind):
                rule = Rule(self.update(group, state), factor != "weight", one.method.score_abs)
                layers.setdefault(rule, []).append(layer)
            else:
                gradient: Tensor = one.gradient()
                p.grad = gradient if p.grad is None else p.grad + gradient
        for rule, some in layers.items():
            descend(some, rule)


def are_numbers(*options: Any) -> bool:
    """Whether all ``options`` are finite numbers, not tensors."""
    return all(isinstance(x, (int, float)) and math.isfinite(x) for x in options)


def _has_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _has_hooks(p: nn.Parameter) -> bool:
    return bool(p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None))
