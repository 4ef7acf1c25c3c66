"""Torch's SGD, with the scores of ticket layers moved in one pass over memory, to the same bits.

A search that calls ``optimizer.step(closure)``, as Lightning does, computes forward and backward inside the step. Then
nobody needs the gradient of the scores but the optimizer: the backward leaves it dL/db (:mod:`mpt.search.deferred`),
and one compiled loop computes the gradient, moves scores and momentum, and counts the scores for the next threshold
(:mod:`mpt.search.fast.descent`). ``scores.grad`` stays None in such a step.

In all other cases this is :class:`torch.optim.SGD`: without a closure, in the first step of a run, unless ``fused``,
with dampening or without momentum, on other devices, in several processes, for scores with hooks, and for parameters
that are no scores. State and its names are those of torch's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mpt.search.deferred import Waiting, deferring
from mpt.search.fast.descent import Layer, Rule, descend, fits

_torch_step = inspect.unwrap(torch.optim.SGD.step)  # without the hooks, which this step has itself


class ScoreSGD(torch.optim.SGD):
    """:class:`torch.optim.SGD`, with the same arguments; ``fused=True`` and a closure for the one pass."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. The ``closure``, if any, computes the gradients once: forward, ``zero_grad`` and backward."""
        if closure is None:
            _torch_step(self)
            return None
        with deferring(self._deferrable()) as lines, torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            self._descend(group, [(p, line[0]) for p in group["params"] if (line := lines.get(id(p)))])
        _torch_step(self)
        return loss

    def _deferrable(self) -> Iterator[nn.Parameter]:
        """The parameters that one pass may move, if they turn out to be scores."""
        if _has_processes() or getattr(self, "grad_scale", None) is not None:
            return
        for group in self.param_groups:
            numbers = all(isinstance(group[name], (int, float)) for name in ("lr", "weight_decay"))
            usual = group["momentum"] != 0 and group["dampening"] == 0 and not group["maximize"]
            if group["fused"] and numbers and usual:
                yield from (p for p in group["params"] if p.is_cpu and self._has_started(p) and not _has_hooks(p))

    def _has_started(self, p: nn.Parameter) -> bool:
        return p in self.state and self.state[p].get("momentum_buffer") is not None

    def _descend(self, group: dict[str, Any], waiting: list[tuple[nn.Parameter, Waiting]]) -> None:
        """Move the scores that fit; give the others their gradient."""
        layers: dict[Rule, list[Layer]] = {}
        for p, one in waiting:
            factor, gain = one.method.score_grad, one.gain
            magnitude = float(gain) if factor == "gain" and gain.dim() == 0 else 1.0
            layer = Layer(one.grad, one.weight, p, self.state[p]["momentum_buffer"], magnitude)
            if p.grad is None and (gain.dim() == 0 or factor != "gain") and fits(layer):
                lr, momentum, decay = (float(group[name]) for name in ("lr", "momentum", "weight_decay"))
                rule = Rule(lr, momentum, decay, group["nesterov"], factor != "weight", one.method.score_abs)
                layers.setdefault(rule, []).append(layer)
            else:
                gradient: Tensor = one.gradient()
                p.grad = gradient if p.grad is None else p.grad + gradient
        for rule, some in layers.items():
            descend(some, rule)


def _has_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _has_hooks(p: nn.Parameter) -> bool:
    return bool(p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None))
