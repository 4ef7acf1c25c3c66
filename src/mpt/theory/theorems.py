"""How many random neurons one weight takes, by each theorem, and how many its construction takes with exact numbers.

One weight of magnitude at most 1, accuracy e, failure probability delta, inputs of any sign; K = ceil(log_phi(1/e)):

    malach         Malach et al. 2020, lemma A.1               ceil(16 / e^2 ln(2 / delta))
    diffenderfer   Diffenderfer & Kailkhura 2021, lemma 1      ceil(16 / e + 16 ln(2 / delta))
    golden_ratio   after Orseau et al. 2020; proved here       ceil(8 K ln(2 K / delta))
    subset_sum     Pensia et al. 2020, Lueker 1998: the order  ceil(2 log2(1/e) + 4 log2(1/delta) + 6), measured here
    doubling       after Sreenivasan et al. 2021; proved here  the widest layer of :func:`mpt.theory.doubling.plan`

Malach's constants are from memory and derived again here. Lueker leaves the constant open: ours is a fit to closest
subsets of random products for weights of at most half the largest product, and no theorem. docs/theory.md has the
proofs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpt.theory import counting, doubling, subset

PHI = (1 + math.sqrt(5)) / 2
DRAWS = 400  # of a measured number


@dataclass(frozen=True)
class Theorem:
    """One theorem, for one weight.

    Attributes:
        name: as a table shows it.
        paper: the source.
        proved: ``paper``, ``here`` or ``measured``: where its constants come from.
        promise: (accuracy, delta) -> random neurons.
        need: (accuracy, delta) -> neurons that its construction takes with exact probabilities; None if it has none.
        shared: whether the rows of a layer share the neurons of a column.
        relative: whether the accuracy counts in units of the largest weight.
    """

    name: str
    paper: str
    proved: str
    promise: Callable[[float, float], int]
    need: Callable[[float, float], int] | None
    shared: bool
    relative: bool

    def neurons(self, accuracy: float, delta: float) -> int:
        """Random neurons that the theorem asks for one weight.

        Raises:
            ValueError: an accuracy or delta outside (0, 1).
        """
        check_shares(accuracy=accuracy, delta=delta)
        return self.promise(accuracy, delta)

    def needed(self, accuracy: float, delta: float) -> int | None:
        """Neurons that the theorem's construction takes with exact probabilities; None where nothing exact is known."""
        check_shares(accuracy=accuracy, delta=delta)
        return self.need(accuracy, delta) if self.need else None


def check_shares(**shares: float) -> None:
    """ValueError unless each value is in (0, 1)."""
    for name, value in shares.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} must be above 0 and below 1, got {value:g}")


def _malach(accuracy: float, delta: float) -> int:
    return math.ceil(16 / accuracy**2 * math.log(2 / delta))


def _malach_exactly(accuracy: float, delta: float) -> int:
    """The least m so that both pieces have a product u v in [1 - e, 1]: each with p = (e + (1-e) ln(1-e)) / 4."""
    small = accuracy < 1e-4  # where the closed form would cancel
    area = accuracy**2 / 2 + accuracy**3 / 6 if small else accuracy + (1 - accuracy) * math.log1p(-accuracy)
    p = area / 4

    def fails(m: float) -> float:
        return 2 * math.exp(m * math.log1p(-p)) - math.exp(m * math.log1p(-2 * p))

    low, high = 0, math.ceil(math.log(2 / delta) / p)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) <= delta else (middle, high)
    return high


def _diffenderfer(accuracy: float, delta: float) -> int:
    return math.ceil(16 / accuracy + 16 * math.log(2 / delta))


def golden_cells(accuracy: float) -> int:
    """K, the golden-ratio cells between a weight of 1 and ``accuracy``; 1 at least."""
    return max(1, math.ceil(math.log(1 / accuracy) / math.log(PHI) - 1e-12))


def _golden(accuracy: float, delta: float) -> int:
    cells = golden_cells(accuracy)
    return math.ceil(8 * cells * math.log(2 * cells / delta))


def _golden_exactly(accuracy: float, delta: float) -> int:
    """The least M with which all 2 K cells are hit, by the union bound over their exact probabilities.

    ``ln u + ln v`` has a triangular density on an interval of length 2 L, L = K ln phi; the cells are its middle half,
    and each has one of four combinations of signs.
    """
    cells = golden_cells(accuracy)
    edges = np.linspace(-0.5, 0.5, cells + 1)  # in units of L, the peak at 0
    below = np.where(edges < 0, (1 + edges) ** 2 / 2, 1 - (1 - edges) ** 2 / 2)
    p = np.diff(below) / 4
    low, high = 0, _golden(accuracy, delta)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if 2 * np.exp(middle * np.log1p(-p)).sum() <= delta else (middle, high)
    return high


def golden_masks(weight: float, numbers: np.ndarray) -> tuple[np.ndarray, float]:
    """The greedy rule: keep each of the descending ``numbers`` that the rest still holds; mask and what is left.

    With ``numbers[i]`` in ``[beta phi^(-i-1), beta phi^-i]`` and ``0 <= weight <= phi beta`` the rest is at most
    ``beta phi^(1-K)``.
    """
    mask, rest = np.zeros(len(numbers), bool), weight
    for i, number in enumerate(numbers):
        if rest >= number:
            mask[i], rest = True, rest - number
    return mask, rest


def _subset_sum(accuracy: float, delta: float) -> int:
    return math.ceil(2 * math.log2(1 / accuracy) + 4 * math.log2(1 / delta) + 6)


def _subset_sum_measured(accuracy: float, delta: float) -> int:
    """Of ``DRAWS`` draws the number of neurons that suffices in all but ``delta``, for a = 1/2 and both pieces."""
    generator, most = np.random.default_rng(0), 80
    u, v = (generator.uniform(-1, 1, (DRAWS, most)) for _ in range(2))
    sizes = np.zeros(DRAWS, np.int64)
    for sign in (1, -1):  # a piece takes the neurons whose inner weight has its sign
        places = [np.flatnonzero(row * sign > 0) for row in v]
        size = np.zeros(DRAWS, np.int64)
        left, n = np.arange(DRAWS), 0
        while len(left):
            n += 1
            picked = np.array([places[d][:n] for d in left])
            rows = np.arange(len(left))[:, None]
            _, error = subset.closest(np.full((len(left), 1), 0.5), u[left][rows, picked], abs(v[left][rows, picked]))
            done = error[:, 0] <= accuracy
            size[left[done]] = [places[d][n - 1] + 1 for d in left[done]]
            left = left[~done]
        sizes = np.maximum(sizes, size)
    return int(np.sort(sizes)[math.ceil((1 - delta) * DRAWS) - 1])


def _doubling(accuracy: float, delta: float) -> int:
    return max(doubling.plan(accuracy=accuracy, largest=1.0, signals=2, rows=1, failure=delta).widths)


THEOREMS = {
    "malach": Theorem("Malach et al. 2020", "lemma A.1, from memory", "paper", _malach, _malach_exactly, False, False),
    "diffenderfer": Theorem(
        "Diffenderfer & Kailkhura 2021",
        "lemma 1 and theorem 2, with the gain corrected",
        "paper",
        _diffenderfer,
        lambda accuracy, delta: counting.exact_neurons(accuracy, delta, rounded=True),
        False,
        True,
    ),
    "golden_ratio": Theorem(
        "golden ratio", "after Orseau et al. 2020, proved in mpt", "here", _golden, _golden_exactly, True, True
    ),
    "subset_sum": Theorem(
        "subset sum",
        "order by Pensia et al. 2020 and Lueker 1998, constants measured",
        "measured",
        _subset_sum,
        _subset_sum_measured,
        True,
        True,
    ),
    "doubling": Theorem(
        "doubling", "after Sreenivasan et al. 2021, proved in mpt", "here", _doubling, None, True, True
    ),
}
