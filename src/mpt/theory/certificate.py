"""A certificate: how far a constructed network can be from its target, for every input of a box or at given inputs.

It is computed from the masks, signs and gains of the constructed network, not from what the construction meant to keep
(:mod:`mpt.theory.effective`), by sound interval bounds (:mod:`mpt.theory.intervals`). An input's label is certified if
no other class can overtake the target's: ``y_t - e_t > y_c + e_c`` for every other class c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpt.theory.effective import Effective, effective_layers
from mpt.theory.intervals import State, run, start
from mpt.theory.target import Target, prepare
from mpt.ticket.ticket import Ticket

BATCH = 256  # inputs bounded at a time


@dataclass(frozen=True)
class Certificate:
    """What is proved of a constructed network.

    Attributes:
        weight_error: largest error of an effective weight, over inputs of both signs as far as they occur; infinite
            where a mask does not have the form of the construction.
        output_error: bound on the error of each output; None where the forward cannot be followed.
        output_low, output_high: bounds on the constructed network's outputs, over all inputs; None as above.
        weight_errors: ``weight_error`` of each layer.
    """

    weight_error: float
    output_error: float | None
    output_low: tuple[float, ...] | None
    output_high: tuple[float, ...] | None
    weight_errors: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; a number that is not finite is None."""
        plain = asdict(self)
        plain["weight_errors"] = {name: _finite(value) for name, value in self.weight_errors.items()}
        for key in ("weight_error", "output_error"):
            plain[key] = None if plain[key] is None else _finite(plain[key])
        for key in ("output_low", "output_high"):
            plain[key] = None if plain[key] is None else [_finite(value) for value in plain[key]]
        return plain


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def certify(target: nn.Module | Target, net: nn.Module | Ticket, low: Tensor, high: Tensor) -> Certificate:
    """Bound the difference between ``target`` and the constructed ``net`` for all inputs between ``low`` and ``high``.

    Args:
        target: the trained network, or what :func:`mpt.theory.target.prepare` made of it.
        net: its construction, or the ticket of it.
        low, high: bounds of an input, (C, H, W) or (features,), or batches of boxes, (N, ...). Given inputs are boxes
            with ``low`` equal to ``high``.

    Raises:
        ValueError: ``low`` above ``high``, an operation without a rule, or a network of another target.
    """
    prepared = target if isinstance(target, Target) else prepare(target)
    return certify_layers(prepared, effective_layers(prepared, net), low, high)


def certify_layers(target: Target, built: Mapping[str, Effective], low: Tensor, high: Tensor) -> Certificate:
    """:func:`certify` of constructed layers that are read already."""
    check_box(low, high)
    if target.graph is None:
        errors = {name: weight_error(target.layers[name], layer, nonneg=False) for name, layer in built.items()}
        return Certificate(max(errors.values()), None, None, None, errors)
    low, high = batched(target, low), batched(target, high)
    parts = [run(target, start(low[i : i + BATCH], high[i : i + BATCH]), built) for i in range(0, len(low), BATCH)]
    outputs = [output for output, _ in parts]
    seen = parts[0][1]
    errors = {
        name: weight_error(target.layers[name], layer, nonneg=name in seen and seen[name].nonneg)
        for name, layer in built.items()
    }
    lows = torch.cat([(output.low - output.error) for output in outputs]).flatten(1).amin(0)
    highs = torch.cat([(output.high + output.error) for output in outputs]).flatten(1).amax(0)
    return Certificate(
        max(errors.values()),
        max(float(output.error.max()) for output in outputs),
        tuple(lows.tolist()),
        tuple(highs.tolist()),
        errors,
    )


def weight_error(layer: Any, built: Effective, *, nonneg: bool) -> float:
    """Largest error of an effective weight of one layer; infinite where there are none."""
    if built.positive is None:
        return float("inf")
    error = (built.positive - layer.weight).abs().max()
    return float(error if nonneg else torch.maximum(error, (built.negative - layer.weight).abs().max()))


def bound_outputs(target: Target, built: Mapping[str, Effective], inputs: Tensor) -> State:
    """Bounds at given inputs (N, ...): the target's outputs, and the error of each, (N, classes)."""
    parts = []
    for i in range(0, len(inputs), BATCH):
        batch = inputs[i : i + BATCH]
        parts.append(run(target, start(batch, batch), built)[0])
    columns = [torch.cat([getattr(part, name) for part in parts]) for name in ("low", "high", "error")]
    return State(columns[0], columns[1], columns[2], nonneg=False)


def certified_labels(state: State) -> Tensor:
    """Whether the constructed network must give the target's label, bool (N,); from :func:`bound_outputs`."""
    label = (state.low + state.high).argmax(1, keepdim=True)
    least = (state.low - state.error).gather(1, label)
    others = (state.high + state.error).scatter(1, label, -torch.inf)
    return (least > others.amax(1, keepdim=True))[:, 0]


def check_box(low: Tensor, high: Tensor) -> None:
    """ValueError unless ``low`` and ``high`` are finite, of one shape, and in order."""
    if low.shape != high.shape:
        raise ValueError(
            f"inputs lie between low and high of one shape, got {tuple(low.shape)} and {tuple(high.shape)}"
        )
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise ValueError("inputs must lie between finite numbers, and some are not finite")
    if bool((low > high).any()):
        at = int((low > high).flatten().nonzero()[0])
        raise ValueError(
            f"inputs must lie between low and high, and low {float(low.flatten()[at]):g} is above high "
            f"{float(high.flatten()[at]):g}"
        )


def batched(target: Target, inputs: Tensor) -> Tensor:
    """``inputs`` with a batch dimension, which one input of a network of images or features lacks."""
    first = next(iter(target.layers.values()))
    single = 3 if isinstance(first, nn.Conv2d) or inputs.dim() > 2 else 1
    return inputs[None] if inputs.dim() == single else inputs
