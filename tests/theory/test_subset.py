from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt.theory.subset import closest, fewest


def drawn(rows, columns, n, *, seed=0, shared=False):
    generator = np.random.default_rng(seed)
    shape = (rows, n) if shared else (rows, columns, n)
    return (
        generator.uniform(-0.5, 0.5, (rows, columns)),
        generator.uniform(-1, 1, shape),
        generator.uniform(0, 1, shape),
    )


def all_sums(numbers):
    """The sums of all subsets, (2^n,), in the order of their bits."""
    n = len(numbers)
    return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) @ numbers


@pytest.mark.parametrize("shared", [False, True])
def test_closest_is_the_best_of_all_subsets(shared):
    w, u, v = drawn(6, 10, 13, shared=shared)
    mask, error = closest(w, u, v)
    for i, j in np.ndindex(w.shape):
        numbers = (u * v)[i] if shared else (u * v)[i, j]
        assert abs(error[i, j] - abs(all_sums(numbers) - w[i, j]).min()) < 1e-12
        assert abs(error[i, j] - abs(numbers[mask[i, j]].sum() - w[i, j])) < 1e-12


@pytest.mark.slow
def test_closest_equals_brute_force_on_2000_weights():
    w, u, v = drawn(20, 100, 16)
    _, error = closest(w, u, v)
    best = [abs(all_sums((u * v)[i, j]) - w[i, j]).min() for i, j in np.ndindex(w.shape)]
    assert abs(error.ravel() - best).max() < 1e-12


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), seed=st.integers(0, 2**20), within=st.sampled_from([0.2, 0.05, 0.01]))
def test_fewest_never_keeps_more_numbers_than_brute_force(n, seed, within):
    w, u, v = drawn(2, 3, n, seed=seed)
    mask, error = fewest(w, u, v, within=within)
    for i, j in np.ndindex(w.shape):
        numbers = (u * v)[i, j]
        sizes = (k for k in range(n + 1) for some in combinations(numbers, k) if abs(sum(some) - w[i, j]) <= within)
        least = next(sizes, None)
        assert abs(error[i, j] - abs(numbers[mask[i, j]].sum() - w[i, j])) < 1e-12
        if least is None:
            assert error[i, j] > within
        else:
            assert error[i, j] <= within
            assert mask[i, j].sum() == least


@pytest.mark.parametrize("shared", [False, True])
def test_fewest_is_the_smallest_and_best_of_all_subsets_where_many_numbers_are_needed(shared):
    w, u, v = drawn(4, 6, 12, shared=shared)
    w, sizes = 2 * w, ((np.arange(2**12)[:, None] >> np.arange(12)) & 1).sum(1)
    mask, error = fewest(w, u, v, within=0.01)
    kept = mask.sum(2)
    for i, j in np.ndindex(w.shape):
        errors = abs(all_sums((u * v)[i] if shared else (u * v)[i, j]) - w[i, j])
        if errors.min() > 0.01:
            assert error[i, j] == pytest.approx(errors.min(), abs=1e-12)
            continue
        assert kept[i, j] == sizes[errors <= 0.01].min()
        assert error[i, j] == pytest.approx(errors[sizes == kept[i, j]].min(), abs=1e-12)
    assert (kept[error <= 0.01] > 4).any()


def test_fewest_tries_no_subset_that_is_larger_than_asked_for():
    w, u, v = drawn(5, 8, 10)
    whole, error = fewest(w, u, v, within=0.02)
    few, errors = fewest(w, u, v, within=0.02, largest=2)
    assert np.array_equal(np.isinf(errors), (whole.sum(2) > 2) | (error > 0.02))
    assert np.array_equal(few[errors <= 0.02], whole[errors <= 0.02])


def test_rows_are_solved_in_parts_of_any_size():
    w, u, v = drawn(150, 1, 7)
    whole = closest(w, u, v)
    parts = [closest(w[i : i + 1], u[i : i + 1], v[i : i + 1]) for i in range(150)]
    assert np.array_equal(whole[0], np.concatenate([mask for mask, _ in parts]))


@pytest.mark.slow
def test_the_published_experiment_is_solved_for_every_weight():
    """784-500-10, 21 numbers shared by a row, accuracy .01: published in 77,266 s with 9.39 numbers a weight."""
    generator = np.random.default_rng(0)
    kept, rest = 0, 0
    for rows, columns, spread in ((500, 784, 0.012), (10, 500, 0.1)):
        w = generator.laplace(0, spread, (rows, columns))
        u = generator.uniform(w.min(), w.max(), (rows, 21))
        mask, error = fewest(w, u, np.ones_like(u), within=0.01)
        _, best = closest(w, u, np.ones_like(u))
        assert max(error.max(), best.max()) <= 0.01
        assert (best <= error + 1e-12).all()
        kept, rest = kept + mask.sum(), rest + w.size
    assert kept / rest <= 0.6


@pytest.mark.parametrize(
    ("w", "u", "words"),
    [
        (np.zeros((2, 3)), np.zeros((3, 4)), "must be"),
        (np.zeros((2, 3)), np.zeros((2, 41)), "from 1 to 40"),
        (np.zeros((2, 3)), np.zeros((2, 0)), "from 1 to 40"),
        (np.full((2, 3), np.nan), np.zeros((2, 4)), "finite"),
    ],
)
def test_what_cannot_be_solved_is_refused(w, u, words):
    with pytest.raises(ValueError, match=words):
        closest(w, u, np.ones_like(u))


def test_fewest_needs_an_accuracy():
    with pytest.raises(ValueError, match="within is the largest error of a weight"):
        fewest(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), within=0)
