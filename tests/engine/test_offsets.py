"""Lists of offsets hold each weight once, under its output, sign and place; kernels are for all tiles there are."""

import itertools

import numpy as np
import pytest

from mpt.engine import offsets
from mpt.engine.graph import Conv
from mpt.engine.layout import GROUP, Buffer, Product, View


def product_of(signs, *, groups=1, places=None, pixels=(8, 8), alone=True, binary=False):
    """A convolution whose weight (c, ky, kx) of a group reads place 16 times its number, or as said."""
    outputs, own, kh, kw = signs.shape
    conv = Conv(
        signs.astype(np.float32), (1, 1), (0, 0, 0, 0), (1, 1), groups, np.ones(outputs), np.zeros(outputs), signs
    )
    if places is None:
        places = 16 * np.arange(groups * own * kh * kw).reshape(groups * own, kh, kw)
    source = Buffer("work", int(places.max(initial=0)) + 1000, GROUP)
    out = View(Buffer("work", 10_000, 1 if alone else GROUP), 0, pixels[0] * pixels[1], (outputs, *pixels), pixels[1])
    return Product("conv", conv, source, 0, pixels[1], places, out, None, binary, alone)


def decoded(made, starts, bits, *, lists):
    """(list, sign, place) of each entry."""
    starts, bases = starts[: 3 * lists + 1], starts[3 * lists + 1 :]
    each = lists // len(bases)
    found = []
    for i in range(lists):
        begin, pairs, plus, minus = starts[3 * i : 3 * i + 4]
        signs = [(1, -1)[j % 2] for j in range(pairs - begin)] + [1] * (plus - pairs) + [-1] * (minus - plus)
        offsets_ = (made[begin:minus].astype(np.int64) + bases[i // each]) << bits
        assert pairs == plus or plus == minus  # what has no partner is all plus or all minus
        found += zip([i % each] * len(signs), signs, offsets_.tolist(), strict=True)
    return sorted(found)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("cuts", [[0, 6], [0, 1, 4, 6], [0, 2, 2, 6]])
@pytest.mark.parametrize("kept", [0.0, 0.2, 1.0])
def test_lists_hold_each_weight_once(groups, cuts, kept):
    rng = np.random.default_rng(0)
    signs = (rng.choice([-1, 1], size=(9, 6, 3, 2)) * (rng.random((9, 6, 3, 2)) < kept)).astype(np.int8)
    signs[4] = 0
    step = product_of(signs, groups=groups)
    chunks = [slice(*cut) for cut in itertools.pairwise(cuts)]
    made, starts, bits = offsets.lists(step, chunks)
    places = step.offsets.reshape(groups, 6, 3, 2)
    wanted = [
        (int(o), int(signs[o, c, y, x]), int(places[o // (9 // groups), c, y, x])) for o, c, y, x in np.argwhere(signs)
    ]
    assert decoded(made, starts, bits, lists=9 * len(chunks)) == sorted(wanted)
    assert bits == 4
    assert made.dtype == np.uint16


def test_offsets_that_16_bits_do_not_reach_take_32():
    signs = np.ones((1, 2, 1, 1), np.int8)
    made, starts, bits = offsets.lists(product_of(signs, places=np.array([3, 70_003]).reshape(2, 1, 1)), [slice(0, 2)])
    assert made.dtype == np.int32
    assert bits == 0
    assert [place for _, _, place in decoded(made, starts, bits, lists=1)] == [3, 70_003]


def test_lists_of_bytes_count_from_0():
    signs = np.ones((1, 2, 1, 1), np.int8)
    step = product_of(signs, places=np.array([32, 64]).reshape(2, 1, 1), binary=True)
    made, _, bits = offsets.lists(step, [slice(0, 2)])
    assert made.tolist() == [32, 64]
    assert bits == 0


@pytest.mark.parametrize(
    ("pixels", "alone", "wanted"),
    [
        ((32, 32), True, {8}),
        ((4, 4), True, {2}),
        ((4, 4), False, {8, 2}),
        ((4, 20), True, {8, 2}),
        ((3, 8), True, {2, 1}),
    ],
)
def test_kernels_are_made_for_all_tiles_there_are(pixels, alone, wanted):
    step = product_of(np.ones((1, 1, 1, 1), np.int8), pixels=pixels, alone=alone)
    assert offsets.sizes(step, 8) == wanted
