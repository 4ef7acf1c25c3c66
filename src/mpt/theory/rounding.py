"""Rounding that knows the inputs: of two multiples within the accuracy, the one that keeps a layer's outputs.

With gain g < 2e, the nearest multiple of g is within the accuracy e of a weight, and for some weights a second one is
too. Which of the two a row takes leaves its certificate as it is, and decides how the errors add up: with the second
moment ``M = mean x x^T`` of the layer's inputs, a row of errors d = W^ - W adds the mean square

    d M d^T  =  mean (d x)^2

to its output. From the nearest multiples, one column after the other takes the multiple that lowers it most, until a
whole pass changes nothing: coordinate descent, as of *GPTQ* (Frantar et al. 2022), within the accuracy.

A layer of few weights can be finer than the accuracy at little expense. Built f times as fine, layer i keeps
f_i K_i signs, K_i ~ sum |w|, and adds V_i / f_i^2 to the mean square error of the outputs. If all V are alike,

    sum V / f_i^2 + l sum f_i K_i    is least for    f_i = (max K / K_i)^(1/3)

up to a factor that f = 1 fixes for the largest layer. No f_i K_i exceeds max K. In a classifier of 784-500-10 features
f is about 4 for the last layer, whose errors would otherwise outweigh those of the first, for 1 sign in 20 more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpt.theory.target import Target

SHARE = 0.8  # of 2e: the gain with which about one weight in four has a second multiple
PASSES = 8
BATCH = 64  # images at a time
POSITIONS = 64  # of a convolution's outputs that are counted for each image


def fineness(target: Target) -> dict[str, float]:
    """How many times finer than the accuracy each layer is built: f of the module's text, 1 or more."""
    sizes = {name: float(layer.weight.abs().sum()) for name, layer in target.layers.items()}
    return {name: (max(sizes.values()) / size) ** (1 / 3) for name, size in sizes.items()}


def moments_of(target: Target, images: Tensor) -> dict[str, np.ndarray]:
    """The second moment of each layer's inputs in the target, at ``images`` (N, ...): float64 (inputs, inputs).

    Inputs are those of ``layer.weight.flatten(1)``: of a convolution, its patches at evenly spaced outputs.
    """
    sums, counts = dict[str, Tensor](), dict.fromkeys(target.layers, 0)

    def add(name: str, layer: Any, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1]) if isinstance(layer, nn.Linear) else _patches(layer, x)
        sums[name] = sums.get(name, 0) + rows.T @ rows
        counts[name] += len(rows)

    hooks = [
        layer.register_forward_pre_hook(lambda layer, args, name=name: add(name, layer, args[0]))
        for name, layer in target.layers.items()
    ]
    try:
        with torch.no_grad():
            for batch in torch.split(images, BATCH):
                target.net(batch.double())
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total / counts[name]).numpy() for name, total in sums.items()}


def _patches(layer: Any, x: Tensor) -> Tensor:
    choices = {"dilation": layer.dilation, "stride": layer.stride}
    padding = layer.padding
    if isinstance(padding, str):  # "same" or "valid"
        sides = layer._reversed_padding_repeated_twice if padding == "same" else [0, 0, 0, 0]
        x, padding = F.pad(x, list(sides)), 0
    columns = F.unfold(x, layer.kernel_size, padding=padding, **choices)  # (N, inputs, positions)
    step = -(-columns.shape[2] // POSITIONS)
    return columns[:, :, ::step].transpose(1, 2).reshape(-1, columns.shape[1])


def fitted(weights: np.ndarray, moment: np.ndarray, *, gain: float, accuracy: float) -> np.ndarray:
    """Multiples of ``gain``, as int64 counts, within ``accuracy`` of each weight, with a small mean square error.

    Args:
        weights: (outputs, inputs).
        moment: second moment of the inputs, (inputs, inputs).
        gain: at most twice the accuracy.
        accuracy: largest error of a weight.

    Returns:
        ``|W^| / gain``; no count changes the sign of a weight.
    """
    nearest = np.sign(weights) * np.floor(np.abs(weights) / gain + 0.5) * gain
    error, within = nearest - weights, accuracy * (1 - 1e-12)
    slope = error @ moment  # half the gradient
    for _ in range(PASSES):
        changed = 0
        for j in range(weights.shape[1]):
            step = np.where(error[:, j] > 0, -gain, gain)  # the other neighbour
            lowers = 2 * step * slope[:, j] + gain**2 * moment[j, j] < 0
            rows = np.flatnonzero(lowers & (np.abs(error[:, j] + step) <= within))
            error[rows, j] += step[rows]
            slope[rows] += step[rows, None] * moment[j]
            changed += len(rows)
        if not changed:
            break
    return np.asarray(np.rint(np.abs(weights + error) / gain), np.int64)
