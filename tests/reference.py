"""The paper in NumPy, slow and obvious: one weight at a time. What the fast code is held against."""

from __future__ import annotations

import math

import numpy as np


def mask(scores: np.ndarray, prune: float, *, score_abs: bool = True) -> np.ndarray:
    """Sort by importance, largest first; a stable sort leaves equals in the order of their flat index."""
    flat = np.abs(scores.ravel()) if score_abs else scores.ravel()
    order = np.argsort(-flat, kind="stable")
    kept = max(1, flat.size - math.floor(prune * flat.size + 0.5))
    chosen = np.zeros(flat.size, dtype=bool)
    chosen[order[:kept]] = True
    return chosen.reshape(scores.shape)


def sign(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1.0, -1.0)  # sign(0) = +1; -0.0 >= 0 too


def gain(weight: np.ndarray, mask: np.ndarray) -> float:
    return float(np.abs(weight.astype(np.float64))[mask].sum() / mask.sum())


def ticket_weight(weight: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return gain(weight, mask) * mask * sign(weight)


def score_gradient(
    grad: np.ndarray, weight: np.ndarray, scores: np.ndarray, gain: float, *, score_grad: str, score_abs: bool = True
) -> np.ndarray:
    factor = {"weight": weight, "sign": sign(weight), "gain": gain * sign(weight)}[score_grad]
    return grad * factor * (sign(scores) if score_abs else 1.0)


def spline_slope(x: np.ndarray, t: float) -> np.ndarray:
    """Slope of the quadratic spline that stands in for the sign's derivative: what backward multiplies with."""
    slopes = [2 / t * (1 - abs(value) / t) if -t <= value <= t else 0.0 for value in x.ravel()]
    return np.array(slopes).reshape(x.shape)
