from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from mpt.search.fast import descent, updates
from mpt.search.fast.descent import Layer, Rule, descend
from mpt.search.fast.updates import TRIALS, Adam, Sgd


def floats(bits):
    return np.array(bits, np.int64).astype(np.uint32).view(np.float32).tolist()


def test_the_numbers_of_sgd():
    which, *numbers, nesterov = Sgd(0.1, 0.9, 0.01, nesterov=True).numbers()
    assert (which, nesterov) == (0, True)
    assert floats(numbers) == np.float32([-0.1, 0.9, 0.01]).tolist()


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(("a", "share", "small"), [(0.9, 0.1, True), (0.3, -0.3, False)])
def test_the_numbers_of_adam(decoupled, a, share, small):
    which, *numbers, is_small = Adam(0.1, (a, 0.99), 1e-8, 0.01, decoupled, step=2.0).numbers()
    assert (which, is_small) == (1, small)
    expected = [-0.1 / (1 - a * a), share, 0.99, 0.01, (1 - 0.99 * 0.99) ** 0.5, 1e-8]
    assert floats(numbers) == pytest.approx([*expected, *([0.0, 0.999] if decoupled else [0.01, 1.0])], rel=1e-6)


def test_one_minus_a_product_is_rounded_once():
    x, y = 1 + 2.0**-30, 1 - 2.0**-30
    assert 1 - x * y == 0.0
    assert updates._one_minus(x, y) == 2.0**-60
    assert updates._one_minus(0.1, 0.3) == float(1 - Fraction(0.1) * Fraction(0.3))


@pytest.mark.parametrize("kind", [Sgd, Adam])
def test_each_update_is_tried_and_named_as_torch_names_its_state(kind):
    assert all(isinstance(update, kind) for update in TRIALS[kind])
    p = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([p], momentum=0.9) if kind is Sgd else torch.optim.Adam([p])
    p.grad = torch.ones(3)
    optimizer.step()
    assert set(kind.moments) == optimizer.state[p].keys() - {"step"}


@pytest.mark.skipif(not descent.is_exact(Adam), reason="this torch rounds Adam in another way")
def test_the_bits_stay_torchs_over_many_steps_of_adam():
    generator = torch.Generator().manual_seed(0)
    for number in range(1, 300):
        step = float(number if number < 100 else number**2)
        grad, weight, scores = torch.randn(3, 512, generator=generator)
        moments = tuple(torch.rand(2, 512, generator=generator) * 10.0 ** -(number % 40))
        update = Adam(0.003, (0.9, 0.999), 1e-8, 0.01, decoupled=number % 2 == 0, step=step)
        expected, theirs = scores.clone(), tuple(x.clone() for x in moments)
        update.step_of_torch(expected, grad * weight, theirs)
        descend([Layer(grad, weight, scores, moments, 1.0)], Rule(update, signs_only=False, absolute=False))
        assert all(map(torch.equal, (scores, *moments), (expected, *theirs))), step
