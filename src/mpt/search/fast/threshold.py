"""The k-th largest score without sorting, on the CPU.

Scores move little in a step, and so does the threshold. For large layers :func:`near_last` therefore counts the scores
above and below a narrow window around the previous threshold and selects only among those inside. The window follows
the threshold; where the threshold has left it, all scores are searched. Either way the value is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mpt.search.fast import loops


class Window(NamedTuple):
    """Where the next threshold of a layer is expected."""

    middle: float  # the previous threshold
    reach: float  # to both sides
    kept: int  # the threshold was the kept-th largest
    absolute: bool
    addresses: tuple[int, ...]  # of the scores of all layers that it was for

    @property
    def ends(self) -> tuple[np.float32, np.float32]:
        """The least number inside, and the least above."""
        with np.errstate(over="ignore"):  # infinite is far enough
            return np.float32(self.middle - self.reach), np.float32(self.middle + self.reach)


# address of a layer's scores -> its window: a hint for speed, which may be stale, absent or that of another tensor
_windows: dict[int, Window] = {}
_MOST_WINDOWS = 10_000
_hints: dict[
    int, np.float32
] = {}  # as the windows: the next threshold itself, if nothing changes the scores until then


def take_hint(address: int) -> np.float32 | None:
    """The threshold to expect of the layers whose first has its scores at ``address``, if somebody has counted them.

    It may be wrong.
    """
    return _hints.pop(address, None)


def near_last(scores: list[np.ndarray], kept: int, *, absolute: bool) -> np.float32:
    """Value of the ``kept``-th largest of all ``scores`` (of ``|s|`` if ``absolute``), searched near the previous one.

    The next window reaches four times as far as the threshold has just moved and at least half as far as this one. It
    holds at least about one score in a thousand. A window that held more than one in sixteen, as after the leaps of the
    first steps, shrinks to a sixteenth.
    """
    addresses, n = tuple(x.ctypes.data for x in scores), sum(x.size for x in scores)
    last = _windows.get(addresses[0])
    last = last if last and last.addresses == addresses else None
    threshold, inside = _within(scores, kept, last, absolute=absolute) if last else (None, 0)
    if threshold is None:
        threshold = introselect(np.concatenate([np.abs(x) if absolute else x for x in scores]), kept)
    reach = _next_reach(last, threshold, inside, n) if last else abs(float(threshold)) / 64
    if len(_windows) >= _MOST_WINDOWS:
        _windows.clear()
        _hints.clear()
    _windows[addresses[0]] = Window(float(threshold), reach, kept, absolute, addresses)
    return threshold


def _next_reach(last: Window, threshold: float | np.floating, inside: int, n: int) -> float:
    floor = last.reach * max(0.5 if inside <= n / 16 else 1 / 16, n / 1000 / inside) if inside else 0.0
    return max(4 * abs(float(threshold) - last.middle), floor)


def windows(addresses: Sequence[int]) -> list[Window]:
    """The windows whose layers' scores are all at these ``addresses``, none of which is in two windows."""
    free, found = set(addresses), []
    for address in addresses:
        window = _windows.get(address)
        if window and free.issuperset(window.addresses):
            free.difference_update(window.addresses)
            found.append(window)
    return found


def expect(window: Window, threshold: float, *, inside: int, n: int) -> None:
    """Remember that ``threshold`` is to be expected next of ``n`` scores, ``inside`` of which are in ``window``.

    The window moves there.
    """
    key = window.addresses[0]
    _windows[key] = window._replace(middle=threshold, reach=_next_reach(window, threshold, inside, n))
    _hints[key] = np.float32(threshold)


def _within(scores: list[np.ndarray], kept: int, window: Window, *, absolute: bool) -> tuple[np.float32 | None, int]:
    """The ``kept``-th largest score if it lies in the window (else None), and the number of scores that do."""
    missing, unseen, inside = kept, 0, []
    for x in scores:
        copies = np.empty_like(x)  # memory that is never written costs nothing
        for above, below, candidates in loops.run(loops.around, x, copies, *window.ends, absolute):
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
