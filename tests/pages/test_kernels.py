"""A picture of kernels has the colour of each weight at its place."""

from __future__ import annotations

import numpy as np
import pytest

from mpt.pages.kernels import MINUS, PLUS, ZERO, picture, tiles
from mpt.ticket.pictures import kernels


def first(shape, *, equal=True, seed=0):
    weight = np.random.default_rng(seed).choice([-0.5, 0, 0.5], shape).astype(np.float32)
    return weight, kernels(weight, image=(shape[1], 8), equal=equal)


def test_minus_zero_and_plus_have_their_colours():
    weight, packed = first((5, 3, 3, 3))
    laid, pixels = tiles(packed, width=712), picture(packed)
    for place in np.ndindex(*weight.shape):
        left, top = laid.corner(place)
        square = pixels[top : top + laid.cell, left : left + laid.cell].reshape(-1, 3)
        assert square.shape == (laid.cell**2, 3)
        assert (square == {-0.5: MINUS, 0: ZERO, 0.5: PLUS}[float(weight[place])]).all()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (64, 3, 3, 3), (7, 4, 11, 11), (30, 12), (16, 64)])
@pytest.mark.parametrize("equal", [True, False])
def test_any_first_layer_has_a_picture_of_moderate_size(shape, equal):
    pixels = picture(first(shape, equal=equal)[1])
    assert pixels.dtype == np.uint8
    assert pixels.shape[1] <= 1600
    assert pixels.shape[0] <= 2400


def test_squares_do_not_overlap():
    laid = tiles(first((9, 2, 3, 3))[1], width=200)
    corners = {laid.corner(place) for place in np.ndindex(*laid.values.shape)}
    assert len(corners) == laid.values.size
    assert all(left % 1 == 0 for left, _ in corners)
