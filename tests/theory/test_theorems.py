from __future__ import annotations

import math

import numpy as np
import pytest

from mpt.theory.theorems import PHI, THEOREMS, golden_cells, golden_masks


@pytest.mark.parametrize(
    ("accuracy", "malach", "diffenderfer", "golden"),
    [(0.1, 5903, 220, 212), (0.01, 590_221, 1660, 480), (1e-4, 5_902_207_127, 160_060, 1070)],
)
def test_promised_neurons(accuracy, malach, diffenderfer, golden):
    found = {key: theorem.neurons(accuracy, 0.05) for key, theorem in THEOREMS.items()}
    assert list(found) == ["malach", "diffenderfer", "golden_ratio", "subset_sum", "doubling"]
    assert (found["malach"], found["diffenderfer"], found["golden_ratio"]) == (malach, diffenderfer, golden)
    assert found["subset_sum"] < 60
    assert found["doubling"] < 600


def test_needed_is_below_promised():
    for key, theorem in THEOREMS.items():
        needed = theorem.needed(0.01, 0.05)
        assert (needed is None) == (key == "doubling")
        assert needed is None or needed < theorem.neurons(0.01, 0.05)


def test_needed_neurons_of_malach_suffice_in_draws_and_fewer_do_not():
    generator, e = np.random.default_rng(0), 0.3
    m = THEOREMS["malach"].needed(e, 0.05)
    u, v = generator.uniform(-1, 1, (2, 4000, m))
    near = abs(u * v - 1) <= e
    both = (near & (v > 0)).any(1) & (near & (v < 0)).any(1)
    assert m == 291
    assert abs(both.mean() - 0.95) < 0.015


@pytest.mark.parametrize("delta", [0.1, 0.01])
@pytest.mark.parametrize("accuracy", [0.1, 0.01, pytest.param(0.001, marks=pytest.mark.slow)])
def test_the_golden_ratio_theorem_holds_in_draws(accuracy, delta):
    """3,000 draws of products; the greedy sum of the cells that are hit leaves at most the accuracy."""
    generator, cells = np.random.default_rng(0), golden_cells(accuracy)
    m, length = THEOREMS["golden_ratio"].neurons(accuracy, delta), cells * math.log(PHI)
    draws, succeeded, largest = 3000, 0, 0.0
    for _ in range(draws):
        logs = generator.uniform(-length / 2, length / 2, (2, m)).sum(0)  # the middle half: [-L/2, L/2]
        half, sign = generator.integers(0, 2, (2, m)).astype(bool)
        cell = np.floor((length / 2 - logs) / math.log(PHI)).astype(int)
        good = (abs(logs) < length / 2) & sign
        hit = True
        for side in (half, ~half):
            inside = good & side
            numbers = np.full(cells, np.nan)
            numbers[cell[inside]] = np.exp(logs[inside] - length / 2) / PHI  # beta = 1 / phi
            if hit := hit and not np.isnan(numbers).any():
                _, rest = golden_masks(generator.uniform(0, 1), numbers)
                largest = max(largest, rest)
        succeeded += hit
    assert succeeded / draws >= 1 - delta
    assert largest <= accuracy


@pytest.mark.parametrize(("accuracy", "delta", "word"), [(0, 0.1, "accuracy"), (1, 0.1, "accuracy"), (0.1, 2, "delta")])
def test_shares_outside_their_range_are_refused(accuracy, delta, word):
    for theorem in THEOREMS.values():
        with pytest.raises(ValueError, match=f"{word} must be above 0 and below 1"):
            theorem.neurons(accuracy, delta)
