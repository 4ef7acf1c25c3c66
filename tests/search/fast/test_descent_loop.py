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


def find(scores, *, bounds, kept, tasks, room=1001):
    """What the loop finds of one window over ``tasks``, in a step that moves nothing."""
    moment, grad = np.zeros((2, scores.size), np.float32)
    layers = np.array([[x.ctypes.data for x in (grad, grad, scores, moment)] + [0, 0]])
    numbers, spans = np.array([[1.0, *bounds]], np.float32), np.array([[kept, 0, len(tasks)]])
    counts, inside = np.zeros((len(tasks), 3), np.int64), np.zeros((len(tasks), room), np.float32)
    order, found = np.arange(len(tasks))[::-1].copy(), np.full((1, 2), np.nan)
    arrays = [x.ctypes.data for x in (tasks, layers, numbers, counts, inside)]
    of_windows = [x.ctypes.data for x in (spans, order, found)]
    update = False, False, *Sgd(0.0, 0.5, 0.0, nesterov=False).numbers()
    native.call(descend, len(tasks), *arrays, len(tasks), 1, room, 1, *of_windows, 0, *update)
    return found[0].tolist()


def test_the_last_task_finds_the_threshold_if_it_is_among_the_candidates():
    scores = np.random.default_rng(0).normal(size=3 * BLOCK + 16).astype(np.float32)
    tasks = np.array([[0, 0, BLOCK], [0, BLOCK, 2 * BLOCK], [0, 2 * BLOCK, scores.size]])
    within, above = ((scores >= 0.5) & (scores < 0.7)).sum(), (scores >= 0.7).sum()
    for kept in (above + 1, above + within // 2, above + within):
        found = find(scores, bounds=(0.5, 0.7), kept=kept, tasks=tasks)
        assert found == [within, np.sort(scores)[scores.size - kept]]
    for kept in (above, above + within + 1):
        assert find(scores, bounds=(0.5, 0.7), kept=kept, tasks=tasks) == [0, 0]
    assert find(scores, bounds=(0.5, 0.7), kept=above + 1, tasks=tasks, room=within // 4) == [0, 0]
    scores[3] = np.nan
    assert find(scores, bounds=(0.5, 0.7), kept=above + 1, tasks=tasks) == [0, 0]
