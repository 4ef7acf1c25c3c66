from __future__ import annotations

import pytest
import torch

from mpt.search.sgd import ScoreSGD
from tests.search.test_one_pass import assert_alike


@pytest.mark.parametrize(
    "options",
    [{"nesterov": True}, {"momentum": 0.0}, {"dampening": 0.5}, {"lr": torch.tensor(0.05)}, {"momentum": 0}],
    ids=str,
)
def test_options_of_sgd_change_no_bit_either(options):
    assert_alike("sgd", options)


@pytest.mark.parametrize(
    ("options", "known"),
    [({"nesterov": True}, True), ({"momentum": 0}, False), ({"dampening": 0.5, "nesterov": False}, False)],
    ids=str,
)
def test_momentum_without_dampening_is_known(options, known):
    optimizer = ScoreSGD([torch.zeros(3)], 0.1, **{"momentum": 0.9} | options)
    assert optimizer.knows(optimizer.param_groups[0]) is known


def test_the_update_has_the_numbers_of_its_group():
    optimizer = ScoreSGD([torch.zeros(3)], 0.1, momentum=0.9, weight_decay=0.2, nesterov=True)
    update = optimizer.update(optimizer.param_groups[0], {})
    assert (update.lr, update.momentum, update.decay, update.nesterov) == (0.1, 0.9, 0.2, True)
