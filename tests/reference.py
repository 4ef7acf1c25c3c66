"""The paper in NumPy, slow and obvious: one weight at a time. What the fast code is held against."""

from __future__ import annotations

import math

import numpy as np

from mpt.streams import stream_generator


def mask(scores: np.ndarray, prune: float, *, score_abs: bool = True) -> np.ndarray:
    """Sort by importance, largest first; a stable sort leaves equals in the order of their flat index."""
    flat = np.abs(scores.ravel()) if score_abs else scores.ravel()
    order = np.argsort(-flat, kind="stable")
    kept = max(1, flat.size - math.floor(prune * flat.size + 0.5))
    chosen = np.zeros(flat.size, dtype=bool)
    chosen[order[:kept]] = True
    return chosen.reshape(scores.shape)


def global_masks(scores: list[np.ndarray], prune: float, *, score_abs: bool = True) -> list[np.ndarray]:
    """Sort all weights of the network by importance; the first largest of each layer is sure of its place."""
    entries = []  # (not sure, -importance, layer, flat index): the smallest tuples are kept
    for layer, s in enumerate(scores):
        flat = np.abs(s.ravel()) if score_abs else s.ravel()
        first = int(np.argmax(flat))
        entries += [(i != first, -float(value), layer, i) for i, value in enumerate(flat)]
    kept = max(1, len(entries) - math.floor(prune * len(entries) + 0.5))
    masks = [np.zeros(s.size, dtype=bool) for s in scores]
    for _, _, layer, i in sorted(entries)[:kept]:
        masks[layer][i] = True
    return [m.reshape(s.shape) for m, s in zip(masks, scores, strict=True)]


def prune_in_epoch(prune: float, epoch: int, ramp: int) -> float:
    if prune < 0.5 or epoch >= ramp:
        return prune
    c = (1 - epoch / ramp) ** 3
    return prune + (0.5 - prune) * c


def propagated(scores: np.ndarray, power: float) -> np.ndarray:
    return scores * np.abs(scores) ** (power - 1)


def above(scores: np.ndarray, threshold: float, *, power: float = 1.0, score_abs: bool = True) -> np.ndarray:
    s = propagated(scores, power)
    return (np.abs(s) if score_abs else s) > threshold


def sign(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1.0, -1.0)  # sign(0) = +1; -0.0 >= 0 too


def gain(weight: np.ndarray, mask: np.ndarray) -> float:
    return float(np.abs(weight.astype(np.float64))[mask].sum() / mask.sum())


def channel_gains(weight: np.ndarray, mask: np.ndarray, *, dim: int = 0) -> np.ndarray:
    """One gain per index of ``dim``, 0 where nothing is kept, in a shape that broadcasts to the weight's."""
    gains = np.zeros([n if d == dim else 1 for d, n in enumerate(weight.shape)])
    for channel in range(weight.shape[dim]):
        kept = np.take(mask, channel, axis=dim)
        if kept.any():
            gains[(slice(None),) * dim + (channel,)] = gain(np.take(weight, channel, axis=dim), kept)
    return gains


def ticket_weight(weight: np.ndarray, mask: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
    return (gain(weight, mask) if gains is None else gains) * mask * sign(weight)


def score_gradient(
    grad: np.ndarray,
    weight: np.ndarray,
    scores: np.ndarray,
    gain: float | np.ndarray,
    *,
    score_grad: str,
    score_abs: bool = True,
    power: float = 1.0,
) -> np.ndarray:
    factor = {"weight": weight, "sign": sign(weight), "gain": gain * sign(weight)}[score_grad]
    return grad * factor * (sign(scores) if score_abs else 1.0) * power * np.abs(scores) ** (power - 1)


def cross_entropy(logits: np.ndarray, labels: np.ndarray, *, label_smoothing: float = 0.0) -> float:
    total = 0.0
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        p = np.exp(row) / np.exp(row).sum()
        target = [(1 - label_smoothing) * (c == label) + label_smoothing / len(row) for c in range(len(row))]
        total -= sum(t * math.log(q) for t, q in zip(target, p, strict=True))
    return total / len(labels)


def distilled(
    logits: np.ndarray, teacher: np.ndarray, labels: np.ndarray, *, weight: float, temperature: float
) -> float:
    """The loss of a network that imitates the logits of a teacher: Hinton, Vinyals & Dean 2015."""
    total = 0.0
    for row, other in zip(logits.astype(np.float64), teacher.astype(np.float64), strict=True):
        p, q = (np.exp(z / temperature) / np.exp(z / temperature).sum() for z in (other, row))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return (1 - weight) * cross_entropy(logits, labels) + weight * temperature**2 * total / len(labels)


def jensen_shannon(clean: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Mean over images of the mean divergence of three predictions from their mixture, in nats."""
    total = 0.0
    for rows in zip(clean.astype(np.float64), a.astype(np.float64), b.astype(np.float64), strict=True):
        predictions = [np.exp(row) / np.exp(row).sum() for row in rows]
        mixture = sum(predictions) / 3
        for p in predictions:
            total += sum(pi * math.log(pi / mi) for pi, mi in zip(p, mixture, strict=True)) / 3
    return total / len(clean)


def learning_rate(
    epoch: int, *, lr: float, epochs: int, schedule: str, warmup: int = 0, milestones: tuple = (), gamma: float = 0.1
) -> float:
    """Appendix A: of the epoch, from 0."""
    if epoch < warmup:
        return lr * (epoch + 1) / warmup
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) * lr
    for milestone in milestones if schedule == "multi_step" else ():
        if epoch >= milestone:
            lr = lr * gamma
    return lr


def spline_slope(x: np.ndarray, t: float) -> np.ndarray:
    """Slope of the quadratic spline that stands in for the sign's derivative: what backward multiplies with."""
    slopes = [2 / t * (1 - abs(value) / t) if -t <= value <= t else 0.0 for value in x.ravel()]
    return np.array(slopes).reshape(x.shape)


def signed_weight(weight: np.ndarray, scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Signed supermasks: the score gives the sign."""
    return gain(weight, mask) * mask * sign(scores)


def iterand(weight: np.ndarray, fresh: np.ndarray, mask: np.ndarray, chances: np.ndarray, rate: float) -> np.ndarray:
    """Iterative randomization: pruned weights whose chance is below ``rate`` become fresh ones."""
    out = weight.copy().ravel()
    for i in range(out.size):
        if not mask.ravel()[i] and chances[i] < rate:
            out[i] = fresh.ravel()[i]
    return out.reshape(weight.shape)


def recycle(weight: np.ndarray, scores: np.ndarray, rate: float) -> np.ndarray:
    """Weight recycling: the j-th least important weight takes the value of the j-th most important one."""
    order = sorted(range(weight.size), key=lambda i: (abs(scores.ravel()[i]), i))
    out = weight.copy().ravel()
    for j in range(math.floor(rate * weight.size)):
        out[order[j]] = weight.ravel()[order[-1 - j]]
    return out.reshape(weight.shape)


def gem_left(n: int, prune: float, *, epochs: int, period: int) -> list[int]:
    """Gem-Miner: weights left of ``n`` in each epoch."""
    prunings, left, lefts = (epochs - 1) // period, n, []
    for epoch in range(epochs):
        if epoch and epoch % period == 0:
            left -= math.ceil((1 - (1 - prune) ** (1 / prunings)) * left)
        lefts.append(left)
    return lefts


def gate(score: float, uniform: float, temperature: float, *, prune: float) -> tuple[bool, float]:
    """A relaxed Bernoulli gate, which a score of 0 opens with probability ``1 - prune``: whether it keeps its weight,
    and its slope."""
    odds = math.exp(score) * (1 - prune) / prune
    z = 1 / (1 + math.exp(-math.log(odds * uniform / (1 - uniform)) / temperature))
    return z > 0.5, z * (1 - z) / temperature


def pattern(shape: tuple[int, ...], *, seed: int, layer: str, prune: float, pruned: float, locked: float) -> np.ndarray:
    """A partially frozen network: -1 where a weight is pruned for good, +1 where it is always kept, 0 elsewhere."""
    n = math.prod(shape)
    kept = max(1, n - math.floor(prune * n + 0.5))
    entries = [-1] * math.floor(pruned * (n - kept)) + [1] * math.floor(locked * kept)
    entries += [0] * (n - len(entries))
    order = stream_generator(seed, f"pattern/{layer}").permutation(n)
    return np.array([entries[i] for i in order]).reshape(shape)


def frozen_mask(scores: np.ndarray, pattern: np.ndarray, prune: float) -> np.ndarray:
    """A partially frozen network: the most important weights, after those that are always kept."""
    importance = [
        math.inf if fixed > 0 else -math.inf if fixed < 0 else abs(score)
        for score, fixed in zip(scores.ravel(), pattern.ravel(), strict=True)
    ]
    n = len(importance)
    order = sorted(range(n), key=lambda i: (-importance[i], i))
    out = np.zeros(n, dtype=bool)
    out[order[: max(1, n - math.floor(prune * n + 0.5))]] = True
    return out.reshape(scores.shape)


def multicoated(weight: np.ndarray, scores: np.ndarray, prune: float, coats: list[float]) -> tuple[np.ndarray, float]:
    """Multicoated supermasks: the ticket weight, and the gain."""
    n = weight.size
    kept = max(1, n - math.floor(prune * n + 0.5))
    levels = np.zeros(n)
    for count in [kept, *(max(1, math.floor(share * kept + 0.5)) for share in coats)]:
        order = sorted(range(n), key=lambda i: (-abs(scores.ravel()[i]), i))
        for i in order[:count]:
            levels[i] += 1
    mean = sum(abs(float(w)) for w in weight.ravel()) / n
    g = mean / math.sqrt(sum(level**2 for level in levels) / kept)
    return (g * levels * sign(weight).ravel()).reshape(weight.shape), g
