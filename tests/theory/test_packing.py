from __future__ import annotations

import numpy as np

from mpt.search.initializers import random_signs
from mpt.theory.packing import as_rows, as_weight, binary_outer, real_layer, signs


def test_signs_are_those_that_the_seed_draws():
    drawn = random_signs(2 * 3 * 4, seed=7, layer="a.0").reshape(2, 3, 2, 2)
    assert np.array_equal(signs((2, 3, 2, 2), seed=7, layer="a.0"), drawn > 0)


def test_rows_of_an_outer_layer_and_back():
    weight = np.arange(2 * 5 * 3 * 2).reshape(2, 5, 3, 2)
    rows = as_rows(weight, weight.shape)
    assert rows.shape == (12, 5)
    assert rows[7, 4] == weight[1, 4, 0, 1]
    assert np.array_equal(as_weight(rows, weight.shape), weight.ravel())


def test_stored_layers_hold_what_was_kept():
    generator = np.random.default_rng(0)
    shape = (2, 5, 3, 2)
    mask, positive = generator.random((2, *shape)) < 0.5
    layer = binary_outer("a.2", shape, as_rows(mask, shape), as_rows(positive, shape), np.float32(0.25))
    assert np.array_equal(layer.weight().numpy(), 0.25 * mask * np.where(positive, 1, -1))
    values = generator.normal(size=shape).astype(np.float32)
    assert np.array_equal(real_layer("b", shape, mask.ravel(), values[mask]).weight().numpy(), mask * values)
