"""Small arrays that show a ticket: what they hold, how they are packed, and what a damaged one does."""

from __future__ import annotations

import numpy as np
import pytest

from mpt.ticket.pictures import FINE, LEVELS, MAX_CELLS, SIDE, kernels, pack, pair_densities, shrink, unpack


def test_a_picture_reads_back_as_it_was():
    cells = np.array([[-1, 0, 1], [1, 1, 0]], dtype=np.int8)
    picture = pack(cells, scale=0.5)
    assert picture["scale"] == 0.5
    np.testing.assert_array_equal(unpack(picture, signed=True), cells)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cells": "AAAA"}, "cannot be unpacked"),
        ({"cells": "!"}, "cannot be unpacked"),
        ({"shape": [2, 2]}, "another number of cells"),
        ({"shape": [2, 4]}, "another number of cells"),
        ({"shape": [0, 3]}, "no cells, or too many"),
        ({"shape": [10**6, 10**6]}, "no cells, or too many"),
        ({"shape": [-2, -3]}, "no cells, or too many"),
    ],
)
def test_a_damaged_picture_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        unpack(pack(np.zeros((2, 3), dtype=np.uint8)) | change, signed=False)


def test_kernels_of_one_gain_show_minus_nothing_and_plus():
    weight = 0.25 * np.array([1, 0, -1, 0, 0, 0, 1, 1, -1], dtype=np.float32).reshape(1, 1, 3, 3)
    picture = kernels(weight, image=(1, 8), equal=True)
    np.testing.assert_array_equal(unpack(picture, signed=True)[0, 0].ravel(), [1, 0, -1, 0, 0, 0, 1, 1, -1])
    assert (picture["steps"], picture["scale"], picture["of"]) == (1, 0.25, [1, 1])


def test_kernels_of_several_gains_show_their_sizes():
    picture = kernels(np.array([[[[2.0, -1.0]]]], dtype=np.float32), image=(1, 8), equal=False)
    np.testing.assert_array_equal(unpack(picture, signed=True).ravel(), [FINE, -64])
    assert (picture["steps"], picture["scale"]) == (FINE, 2.0)


def test_outputs_of_a_layer_on_images_are_shown_as_images():
    assert kernels(np.ones((5, 3 * 16), dtype=np.float32), image=(3, 4), equal=True)["shape"] == [5, 3, 4, 4]
    assert kernels(np.ones((5, 7), dtype=np.float32), image=(3, 4), equal=True)["shape"] == [5, 1, 1, 7]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(600, 3, 7, 7), (300, 3 * 224 * 224), (9, 64, 3, 3), (4, 2, 5), (2, 2, 3, 3, 3)])
def test_a_picture_of_kernels_stays_small(shape):
    picture = kernels(np.random.default_rng(0).normal(size=shape).astype(np.float32), image=(3, 224), equal=False)
    assert 0 < np.prod(picture["shape"]) <= MAX_CELLS
    assert len(picture["cells"]) < 10_000
    assert unpack(picture, signed=True).any()


def test_densities_are_those_of_each_pair_of_channels():
    mask = np.zeros((2, 2, 3, 3), dtype=bool)
    mask[0, 1] = True
    mask[1, 0, 0] = True
    picture = pair_densities(mask)
    np.testing.assert_array_equal(unpack(picture, signed=False), [[0, LEVELS], [round(LEVELS / 3), 0]])
    assert (picture["low"], picture["high"], picture["of"]) == (0, 1, [2, 2])


def test_equal_densities_need_no_scale():
    picture = pair_densities(np.ones((3, 4), dtype=bool))
    assert picture["low"] == picture["high"] == 1
    assert not unpack(picture, signed=False).any()


def test_many_channels_become_means_over_blocks():
    mask = np.random.default_rng(0).random((130, 70, 3, 3)) < 0.3
    picture = pair_densities(mask)
    assert picture["shape"] == [SIDE, SIDE]
    pairs = mask.reshape(130, 70, 9).mean(2)
    assert shrink(pairs, side=SIDE)[0, 0] == pytest.approx(pairs[:2, :1].mean())
    assert shrink(pairs, side=1)[0, 0] == pytest.approx(mask.mean())
