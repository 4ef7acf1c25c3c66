"""How many weights will enter or leave the mask of a layer in a run, judged by its first gradient, before it is over.

A weight changes sides when its importance crosses the layer's threshold. With gradients of random signs and the size of
the first one, ``g_i``, a score moves in T steps by about

    m_i = c |g_i|    SGD with momentum u:  c = sqrt(sum_t lr_t^2) / (1 - u)
    m_i = c          Adam, which divides by the gradient's size, where g_i != 0:  c = sqrt(sum_t lr_t^2)

Importances that are spread evenly over ``[a, b]`` then give ``sum_i min(0.1, m_i / (b - a))`` expected crossings. The
bound of a tenth is what searches reach: it matters for layers of a few weights, such as the 4x4 ones between the heads
of CaiT. If crossings are independent, a layer that expects 3 stays as it is with a probability of ``exp(-3)``, 5 %.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mpt.experiment.optim import lr_factors
from mpt.run.settings import Optim
from mpt.search.layers import TicketLayer, ticket_layers
from mpt.search.refusal import patterns_of
from mpt.words import first_names

FEW = 3.0  # expected crossings below which a layer is named
_MOST = 0.1  # of a layer's weights


def unlikely_to_change(net: nn.Module, optim: Optim, *, epochs: int, steps: int) -> str:
    """One sentence that names the layers of ``net`` in which few crossings are expected; empty if there are none.

    Args:
        net: a converted network whose scores have the gradients of its first step.
        optim: settings of the optimizer; nothing is known of an optimizer of the user's own.
        epochs: of the run; ``steps`` of the optimizer in each.
    """
    layers = {name: layer for name, layer in ticket_layers(net).items() if _is_searched(layer)}
    if optim._target_ is not None or not layers:
        return ""
    reach = _reach(optim, epochs=epochs, steps=steps)
    expected = {name: _crossings(layer, reach, by_size=optim.name == "sgd") for name, layer in layers.items()}
    values = torch.stack(list(expected.values())).tolist()  # one wait for the device
    named = [name for name, value in zip(expected, values, strict=True) if value < FEW]
    if not named:
        return ""
    rest = [name for name in layers if name not in named]
    return (
        f"the mask of {len(named)} of {len(layers)} searched layers may stay as drawn, because fewer than {FEW:.0f} of "
        f"their scores are expected to reach the threshold in {epochs * steps:,} steps: "
        f"{first_names(patterns_of(named, others=rest), most=len(named))}"
    )


def _is_searched(layer: TicketLayer) -> bool:
    return layer.scores.grad is not None and 0 < layer.num_kept < layer.scores.numel()


def _reach(optim: Optim, *, epochs: int, steps: int) -> float:
    """``c`` of this file's head, for the learning rate ``optim.lr``."""
    if isinstance(optim.schedule, str):
        factor = lr_factors(
            epochs=epochs,
            schedule=optim.schedule,
            warmup=optim.warmup,
            milestones=optim.milestones,
            gamma=optim.gamma,
        )
        sample = range(0, epochs, max(1, epochs // 1000))
        squares = epochs * sum(factor(epoch) ** 2 for epoch in sample) / len(sample)
    else:  # a schedule of the user's own
        squares = float(epochs)
    momentum = optim.momentum if optim.name == "sgd" else 0.0
    return optim.lr * math.sqrt(steps * squares) / (1 - momentum)


@torch.no_grad()
def _crossings(layer: TicketLayer, reach: float, *, by_size: bool) -> Tensor:
    """The expected crossings of a layer, 0-d."""
    importance, gradient = layer.method.importance(layer.scores), layer.scores.grad
    assert gradient is not None
    moves = gradient.abs() if by_size else (gradient != 0).to(gradient.dtype)
    spread = (importance.max() - importance.min()).clamp_min(1e-30)
    return (reach * layer.method.score_lr * moves / spread).clamp_max(_MOST).sum().float()
