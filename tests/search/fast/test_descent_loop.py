from __future__ import annotations

import numpy as np

from mpt.search.fast import native
from mpt.search.fast.descent_loop import BLOCK, descend
from mpt.search.fast.updates import Sgd


def test_scores_are_counted_after_the_step_and_only_as_many_kept_as_there_is_room_for():
    n = 3 * BLOCK + 16
    scores = np.linspace(-1, 1, n, dtype=np.float32)
    grad, weight, momentum = np.zeros((3, n), np.float32)
    momentum[:] = 1.0
    layers = np.array([[x.ctypes.data for x in (grad, weight, scores, momentum)] + [0, 0]])
    numbers = np.array([[1.0, 0.25, 0.5]], np.float32)
    tasks = np.array([[0, 0, 2 * BLOCK], [0, 2 * BLOCK, n]])
    counts, inside = np.zeros((2, 3), np.int64), np.zeros((2, 101), np.float32)
    arrays = [x.ctypes.data for x in (tasks, layers, numbers, counts, inside)]
    update = False, True, *Sgd(0.5, 0.5, 0.0, nesterov=False).numbers()
    native.call(descend, 2, *arrays, 2, 1, 101, 0, 0, 0, 0, 0, *update)
    assert np.array_equal(scores, np.linspace(-1, 1, n, dtype=np.float32) - np.float32(0.25))
    for (_, start, stop), (above, below, within), kept in zip(tasks, counts, inside, strict=True):
        moved = np.abs(scores[start:stop])
        candidates = moved[(moved >= 0.25) & (moved < 0.5)]
        assert (above, below, within) == ((moved >= 0.5).sum(), (moved < 0.25).sum(), candidates.size)
        assert np.array_equal(kept[: min(within, 100)], candidates[:100])
