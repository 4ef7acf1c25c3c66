"""The k-th largest score without sorting, on the CPU.

Scores move little in a step, and so does the threshold. For large layers :func:`near_last` therefore counts the scores
above and below a narrow window around the previous threshold and selects only among those inside. The window follows
the threshold; where the threshold has left it, all scores are searched. Either way the value is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mpt.search.fast import loops


class Window(NamedTuple):
    """Where the next threshold of a layer is expected."""

    middle: float  # the previous threshold
    reach: float  # to both sides


# address of a layer's scores -> its window: a hint for speed, which may be stale, absent or that of another tensor
_windows: dict[int, Window] = {}
_MOST_WINDOWS = 10_000


def near_last(scores: list[np.ndarray], kept: int, *, absolute: bool) -> np.float32:
    """Value of the ``kept``-th largest of all ``scores`` (of ``|s|`` if ``absolute``), searched near the previous one.

    The next window reaches four times as far as the threshold has just moved and at least half as far as this one. It
    holds at least about one score in a thousand. A window that held more than one in sixteen, as after the leaps of the
    first steps, shrinks to a sixteenth.
    """
    key, n = scores[0].ctypes.data, sum(x.size for x in scores)
    last = _windows.get(key)
    threshold, inside = _within(scores, kept, last, absolute=absolute) if last else (None, 0)
    if threshold is None:
        threshold = introselect(np.concatenate([np.abs(x) if absolute else x for x in scores]), kept)
    if last is None:
        reach = abs(float(threshold)) / 64
    else:
        floor = last.reach * max(0.5 if inside <= n / 16 else 1 / 16, n / 1000 / inside) if inside else 0.0
        reach = max(4 * abs(float(threshold) - last.middle), floor)
    if len(_windows) >= _MOST_WINDOWS:
        _windows.clear()
    _windows[key] = Window(float(threshold), reach)
    return threshold


def _within(scores: list[np.ndarray], kept: int, window: Window, *, absolute: bool) -> tuple[np.float32 | None, int]:
    """The ``kept``-th largest score if it lies in the window (else None), and the number of scores that do."""
    low, high = np.float32(window.middle - window.reach), np.float32(window.middle + window.reach)
    missing, unseen, inside = kept, 0, []
    for x in scores:
        copies = np.empty_like(x)  # memory that is never written costs nothing
        for above, below, candidates in loops.run(loops.around, x, copies, low, high, absolute):
            missing -= above
            unseen -= above + below + candidates.size
            inside.append(candidates)
        unseen += x.size
    candidates = np.concatenate(inside)
    if unseen or not 1 <= missing <= candidates.size:  # NaN, or the threshold is elsewhere
        return None, 0
    return introselect(candidates, missing), candidates.size


def introselect(values: np.ndarray, kept: int) -> np.floating:
    """Value of the ``kept``-th largest entry of ``values``, (n,), which are reordered: introselect, O(n)."""
    position = values.size - kept
    values.partition(position)
    value: np.floating = values[position]
    return value
