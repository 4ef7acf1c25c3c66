"""What each theorem asks of a given network: random neurons a weight, hidden widths, kept weights.

A network of l layers, layer i with n rows and at most s weights a row, is to be approximated within ``error`` in the
output for all inputs of 2-norm at most ``radius``, with probability 1 - ``delta``. The theorems want spectral norms of
at most 1 and weights of at most 1/sqrt(s). A network with ReLUs and no biases meets this after division of layer i by

    c_i = max(spectral norm, sqrt(s) max |w|)        error' = error / (radius prod c_i)

and then one weight must be met within

    e_w = error' / (2 l s sqrt(n))                   delta_w = delta / (l n s)

That is theorem 2 of Diffenderfer & Kailkhura 2021: k >= n s ceil(16 / (e_w sqrt s) + 16 ln(2 n s l / delta)) hidden
neurons, with the gain that its proof needs, 1 for the outer layers and e_w for the inner ones. The rows for Malach et
al. 2020 use the same chain. The others share the neurons of a column among all rows (:mod:`mpt.theory.counting`) and
spend delta / N on each of the N weights. Biases are left out, and a convolution counts as the matrix that it is.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpt.theory import counting, doubling
from mpt.theory.target import Target, matrix, prepare
from mpt.theory.theorems import THEOREMS, Theorem, check_shares, golden_cells
from mpt.ticket.report import positions

__all__ = ["THEOREMS", "Row", "Theorem", "required", "weight_accuracy"]


@dataclass(frozen=True)
class Row:
    """What one theorem asks for one layer.

    Attributes:
        theorem: key of :data:`THEOREMS`, or ``counting``: the construction of ``diffenderfer`` with exact
            probabilities, rounding to nearest and shared neurons (ours).
        proved: ``paper``, ``here`` or ``measured``.
        layer: its name.
        rows, columns: n and s.
        scale: c_i.
        accuracy: e_w, of one weight of the scaled layer.
        neurons: random neurons a weight.
        width: hidden neurons.
        kept: most weights kept of the layer's pair, None where the theorem bounds none.
        needed: random neurons a weight that the theorem's construction takes with exact probabilities, or None.
    """

    theorem: str
    proved: str
    layer: str
    rows: int
    columns: int
    scale: float
    accuracy: float
    neurons: float
    width: float
    kept: float | None
    needed: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def weight_accuracy(*, error: float, layers: int, rows: int, columns: int) -> float:
    """``e_w = error / (2 l s sqrt n)``: the accuracy of one weight, of a network that meets the conditions."""
    return error / (2 * layers * columns * math.sqrt(rows))


def required(
    target: nn.Module,
    *,
    error: float,
    delta: float = 0.05,
    radius: float | None = None,
    example: Tensor | None = None,
) -> tuple[Row, ...]:
    """What each theorem asks for each layer of ``target``.

    Args:
        target: a network of Linear and Conv2d layers; it stays as it is.
        error: of the output, in its 2-norm, above 0.
        delta: probability of failure, in (0, 1).
        radius: largest 2-norm of an input; None: of inputs in [0, 1].
        example: (1, C, H, W) or (1, features), which a network of convolutions needs for the size of its maps.

    Raises:
        ValueError: an argument out of its range, or a network that the theorems do not cover.
    """
    if not 0 < error < math.inf:
        raise ValueError(f"error is the largest error of the output and must be above 0 and finite, got {error:g}")
    check_shares(delta=delta)
    prepared = prepare(target)
    places = _places(prepared, example)
    inputs = example[0].numel() if example is not None else next(iter(prepared.layers.values())).weight[0].numel()
    radius = math.sqrt(inputs) if radius is None else radius
    if not 0 < radius < math.inf:
        raise ValueError(f"radius is the largest 2-norm of an input and must be above 0 and finite, got {radius:g}")
    scales = {name: scale_of(layer) for name, layer in prepared.layers.items()}
    scaled = error / radius / math.prod(scales.values())
    rows: list[Row] = []
    for theorem in ("malach", "diffenderfer", "counting", "golden_ratio", "subset_sum", "doubling"):
        for name, layer in prepared.layers.items():
            rows.append(
                _row(theorem, name, layer, prepared, scale=scales[name], error=scaled, delta=delta, places=places[name])
            )
    return tuple(rows)


def _places(target: Target, example: Tensor | None) -> dict[str, int]:
    """Positions at which each layer computes: 1 for a linear layer."""
    convolutions = [name for name, layer in target.layers.items() if isinstance(layer, nn.Conv2d)]
    if not convolutions:
        return dict.fromkeys(target.layers, 1)
    if example is None:
        raise ValueError(f"the size of the maps of {convolutions[0]} depends on the images: give example=<one image>")
    return dict.fromkeys(target.layers, 1) | positions(target.net, example.double())


def scale_of(layer: Any) -> float:
    """``c = max(spectral norm, sqrt(s) max |w|)``; of a convolution's matrix the bound ``sqrt(places) ||W||``."""
    weights = matrix(layer)
    columns, places = weights[0].size, weights.shape[2]
    norm = float(np.linalg.norm(weights.reshape(len(weights), -1), 2)) * math.sqrt(places)
    largest = float(np.abs(weights).max())
    if largest == 0:
        raise ValueError("a layer has no weight other than 0, so that no theorem asks anything of it: leave it out")
    return max(norm, math.sqrt(columns) * largest)


def _row(
    key: str, name: str, layer: Any, target: Target, *, scale: float, error: float, delta: float, places: int
) -> Row:
    weights = matrix(layer)
    n, s, total, depth = len(weights), weights[0].size, target.num_weights, len(target.layers)
    accuracy = weight_accuracy(error=error, layers=depth, rows=n * places, columns=s)
    relative = accuracy * math.sqrt(s)  # to the largest weight allowed, 1 / sqrt(s)
    share = delta / (depth * n * s)
    values = np.abs(weights) / scale * math.sqrt(s)  # at most 1
    about = (name, n, s, scale, accuracy)
    if key == "malach":
        neurons, needed = 16 / accuracy**2 * math.log(2 / share), THEOREMS[key].needed(accuracy, delta / total)
        return _made(key, *about, neurons=neurons, width=n * s * math.ceil(neurons), kept=4 * n * s, needed=needed)
    if key == "diffenderfer":
        neurons = 16 / relative + 16 * math.log(2 / share)
        kept = 4 * n * s * depth * math.sqrt(n * places * s) / error
        needed = THEOREMS[key].needed(min(relative, 0.999), delta / total)
        return _made(key, *about, neurons=neurons, width=n * s * math.ceil(neurons), kept=kept, needed=needed)
    if key == "counting":
        counts = np.floor(values / (2 * relative) + 0.5).astype(np.int64)
        # by the column's most: one number a column, so that blocks differ
        sizes = counting.blocks(counts.max(axis=2), pieces=2, failure=delta, weights=total)
        most = float(sizes.max())
        return _made(
            key, *about, neurons=most, width=float(sizes.sum()), kept=2.0 * counts.sum() + sizes.sum(), needed=most
        )
    if key == "golden_ratio":
        cells = golden_cells(min(relative, 0.999))
        neurons = math.ceil(8 * cells * math.log(2 * cells / (delta / total)))
        needed = THEOREMS[key].needed(min(relative, 0.999), delta / total)
        return _made(
            key, *about, neurons=neurons, width=neurons * weights.shape[1], kept=4 * cells * n * s, needed=needed
        )
    if key == "subset_sum":
        neurons = THEOREMS[key].neurons(min(relative, 0.999), delta / total)
        return _made(key, *about, neurons=neurons, width=neurons * weights.shape[1], kept=None, needed=None)
    columns, rows = weights.shape[1], n * weights.shape[2]
    chain = doubling.plan(accuracy=relative, largest=1.0, signals=2 * columns, rows=rows, failure=delta / depth)
    kept = n * s * 2 * (chain.digits + 1) + 2 * sum(chain.slots)
    width = max(chain.widths)
    return _made(key, *about, neurons=width / columns, width=width, kept=kept, needed=None)


def _made(
    key: str,
    name: str,
    n: int,
    s: int,
    scale: float,
    accuracy: float,
    *,
    neurons: float,
    width: float,
    kept: float | None,
    needed: float | None,
) -> Row:
    proved = "here" if key == "counting" else THEOREMS[key].proved
    return Row(key, proved, name, n, s, scale, accuracy, neurons, width, kept, needed)


def radius_of(low: Tensor, high: Tensor) -> float:
    """The largest 2-norm of an input between ``low`` and ``high``."""
    return float(torch.maximum(low.abs(), high.abs()).double().norm())
