"""The random subset sum: the numbers, among random products, whose sum comes nearest to a weight.

    w  ~  sum of u_h v_h over the kept h         u of the outer, v of the inner random layer, n numbers a weight

``closest`` finds the best of all 2^n subsets. The subset sums of each half of the numbers are sorted by merging ``S``
and ``S + a`` for one number ``a`` after the other; two pointers then run over both lists (Horowitz & Sahni 1974). A
weight takes O(2^(n/2)) time and memory; weights that share their numbers sort once.

``fewest`` takes the fewest numbers whose sum is within an accuracy, and the best of these subsets: none, one by a scan,
two by two pointers on the sorted numbers, three and four by loops around those, more by the sums of both halves in
lists by their number of terms, with two pointers over each pair of lists.

The public experiment of Pensia et al. 2020 took a commercial solver and 77,266 s for a network of 397,000 weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from mpt.search.fast.loops import compiled

MOST = 40  # numbers of a weight: 2^20 sums a half
FEW = 4  # numbers of the largest subsets that are tried one by one
PART = 64  # rows that a thread takes at a time


def closest(weights: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The subset of the products ``u v`` whose sum is nearest to each weight.

    Args:
        weights: (rows, columns).
        u: (rows, n), shared by the weights of a row, or (rows, columns, n).
        v: as ``u``.

    Returns:
        mask (rows, columns, n), bool, and error (rows, columns), ``|sum - w|``, float64.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or n above ``MOST``.
    """
    return _solve(weights, u, v, within=-1.0)


def fewest(
    weights: np.ndarray, u: np.ndarray, v: np.ndarray, *, within: float, largest: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The fewest products ``u v`` whose sum is within ``within`` of each weight; where none are, the closest subset.

    With ``largest`` (up to ``FEW``) no larger subset is tried: where none is within, the error is infinite.

    See :func:`closest` for shapes and errors.
    """
    if not 0 < within < math.inf:
        raise ValueError(f"within is the largest error of a weight and must be above 0 and finite, got {within}")
    return _solve(weights, u, v, within=within, largest=largest)


def _solve(
    weights: np.ndarray, u: np.ndarray, v: np.ndarray, *, within: float, largest: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    w, numbers = np.asarray(weights, np.float64), np.asarray(u, np.float64) * np.asarray(v, np.float64)
    rows, columns = w.shape
    own = numbers.ndim == 3
    if numbers.shape[:-1] != (w.shape if own else (rows,)):
        raise ValueError(
            f"u and v must be (rows, n) or (rows, columns, n) for weights {w.shape}, their product is {numbers.shape}"
        )
    n = numbers.shape[-1]
    if not 1 <= n <= MOST:
        raise ValueError(f"u and v must have from 1 to {MOST} numbers a weight, got {n}")
    if not (np.isfinite(w).all() and np.isfinite(numbers).all()):
        raise ValueError("weights, u and v must be finite, and some are not: a network that diverged has no ticket")
    w = np.ascontiguousarray(w.reshape(-1, 1) if own else w)
    numbers = np.ascontiguousarray(numbers.reshape(-1, n))
    mask, error = np.zeros((*w.shape, n), bool), np.full(w.shape, np.inf)
    if within > 0:
        run_in_parts(few_rows, w, numbers, mask, error, within, largest or FEW)
    if largest is None and np.isinf(error).any():
        run_in_parts(closest_rows, w, numbers, mask, error, within)
    return mask.reshape(rows, columns, n), error.reshape(rows, columns)


def run_in_parts(
    loop: Callable[..., None],
    *arguments: np.ndarray | float,
    part: int = PART,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Run ``loop``, compiled, on parts of the first axis of all arrays among ``arguments``, on torch's threads.

    ``advance`` is told the number of rows of each finished part.
    """
    function = compiled(loop)
    arrays = [x for x in arguments if isinstance(x, np.ndarray)]

    def parts() -> Iterator[list[np.ndarray | float]]:
        for start in range(0, len(arrays[0]), part):
            yield [x[start : start + part] if isinstance(x, np.ndarray) else x for x in arguments]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start, _ in enumerate(pool.map(lambda some: function(*some), parts())):
            advance(min(part, len(arrays[0]) - part * start))


def few_rows(
    w: np.ndarray, numbers: np.ndarray, mask: np.ndarray, error: np.ndarray, within: float, largest: int
) -> None:
    """The loop of ``fewest``: subsets of at most ``largest`` of ``numbers`` (rows, n) for weights (rows, columns).

    ``error`` stays infinite where none of them is within ``within``.
    """
    rows, columns = w.shape
    n = numbers.shape[1]
    chosen, best = np.empty(largest, np.int64), np.empty(largest, np.int64)
    for row in range(rows):
        order = np.argsort(numbers[row])
        q = numbers[row][order]
        for column in range(columns):
            t = w[row, column]
            size, found = 0, abs(t) <= within
            while not found and size < min(largest, n):
                size += 1
                least, outer = np.inf, max(0, size - 2)  # all but the last two numbers, by loops
                if size == 1:
                    for i in range(n):
                        if abs(q[i] - t) < least:
                            least, best[0] = abs(q[i] - t), i
                    found = least <= within
                    continue
                for k in range(outer):
                    chosen[k] = k
                while True:
                    rest = -t
                    for k in range(outer):
                        rest += q[chosen[k]]
                    low, high = (chosen[outer - 1] + 1 if outer else 0), n - 1
                    while low < high:
                        s = rest + q[low] + q[high]
                        if abs(s) < least:
                            least, best[outer], best[outer + 1] = abs(s), low, high
                            best[:outer] = chosen[:outer]
                        if s < 0:
                            low += 1
                        else:
                            high -= 1
                    k = outer - 1
                    while k >= 0 and chosen[k] == n - size + k:
                        k -= 1
                    if k < 0:
                        break
                    chosen[k] += 1
                    for after in range(k + 1, outer):
                        chosen[after] = chosen[after - 1] + 1
                found = least <= within
            if found:
                total = -t
                for k in range(size):
                    mask[row, column, order[best[k]]] = True
                    total += q[best[k]]
                error[row, column] = abs(total)


def closest_rows(w: np.ndarray, numbers: np.ndarray, mask: np.ndarray, error: np.ndarray, within: float) -> None:
    """The loop of ``closest``, for weights (rows, columns) whose ``error`` is infinite.

    With ``within`` of at least 0 it takes, among the subsets that are within it, the best of the smallest.
    """
    rows, columns = w.shape
    n = numbers.shape[1]
    half = n // 2
    most = 1 << (n - half)
    sums, codes = np.empty((2, most)), np.empty((2, most), np.int32)
    old_sums, old_codes = np.empty(most), np.empty(most, np.int32)
    lists, places = np.empty((2, most)), np.empty((2, most), np.int32)  # sums by their number of terms
    terms_of, starts, ends = np.empty(most, np.int64), np.zeros((2, n - half + 2), np.int64), np.zeros(n, np.int64)
    lefts, rights = sums[0], sums[1]
    for row in range(rows):
        p, built, grouped = numbers[row], False, False
        for column in range(columns):
            t = w[row, column]
            if error[row, column] < np.inf:
                continue
            if not built:  # the sorted sums of both halves: S and S + a merged from both ends, without a branch
                for part in range(2):
                    first, count = part * half, n - half if part else half
                    sums[part, 0], codes[part, 0], filled = 0.0, 0, 1
                    for k in range(count):
                        a, bit = p[first + k], np.int32(1 << k)
                        for i in range(filled):
                            old_sums[i], old_codes[i] = sums[part, i], codes[part, i]
                        i, j, x, y = 0, 0, filled - 1, filled - 1
                        for place in range(filled):  # i + j < filled, so that no list ends
                            s, r = old_sums[i], old_sums[j] + a
                            low = s <= r
                            sums[part, place] = s if low else r
                            codes[part, place] = old_codes[i] if low else old_codes[j] | bit
                            i, j = i + low, j + 1 - low
                            s, r = old_sums[x], old_sums[y] + a
                            high = s > r
                            sums[part, 2 * filled - 1 - place] = s if high else r
                            codes[part, 2 * filled - 1 - place] = old_codes[x] if high else old_codes[y] | bit
                            x, y = x - high, y - 1 + high
                        filled *= 2
                built, grouped = True, False
            i, j, least, first, second = 0, (1 << (n - half)) - 1, np.inf, 0, 0
            while i < 1 << half and j >= 0:
                s = lefts[i] - t + rights[j]
                if abs(s) < least:
                    least, first, second = abs(s), i, j
                low = s < 0
                i, j = i + low, j - 1 + low
            if 0 <= least <= within:
                if not grouped:  # both halves by their number of terms, sorted as before
                    for part in range(2):
                        count = n - half if part else half
                        starts[part] = 0
                        for i in range(1 << count):
                            terms = 0
                            for k in range(count):
                                terms += (codes[part, i] >> k) & 1
                            terms_of[i] = terms
                            starts[part, terms + 1] += 1
                        for terms in range(count + 1):
                            starts[part, terms + 1] += starts[part, terms]
                            ends[terms] = starts[part, terms]
                        for i in range(1 << count):
                            terms = terms_of[i]
                            lists[part, ends[terms]] = sums[part, i]
                            places[part, ends[terms]] = i
                            ends[terms] += 1
                    grouped = True
                for size in range(FEW + 1, n + 1):
                    least = np.inf
                    for terms in range(max(0, size - (n - half)), min(half, size) + 1):
                        i, end = starts[0, terms], starts[0, terms + 1]
                        j, stop = starts[1, size - terms + 1] - 1, starts[1, size - terms]
                        while i < end and j >= stop:
                            s = lists[0, i] - t + lists[1, j]
                            if abs(s) < least:
                                least, first, second = abs(s), places[0, i], places[1, j]
                            low = s < 0
                            i, j = i + low, j - 1 + low
                    if least <= within:
                        break
            code, other = codes[0, first], codes[1, second]
            total = -t
            for k in range(n):
                if ((code >> k) if k < half else (other >> (k - half))) & 1:
                    mask[row, column, k] = True
                    total += p[k]
            error[row, column] = abs(total)
