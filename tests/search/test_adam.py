from __future__ import annotations

import pytest
import torch

from mpt.search.adam import ScoreAdam, ScoreAdamW
from tests.search.test_one_pass import assert_alike


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize(
    "options",
    [
        *({"amsgrad": True}, {"lr": torch.tensor(0.01)}, {"betas": (0.3, 0.9)}, {"betas": (0.0, 0.0)}),
        *({"betas": (0.95, 0.98), "eps": 1e-3}, {"eps": 1e-30}),
    ],
    ids=str,
)
def test_options_of_adam_change_no_bit_either(name, options):
    assert_alike(name, options)


@pytest.mark.parametrize("kind", [ScoreAdam, ScoreAdamW])
@pytest.mark.parametrize(
    ("options", "known"),
    [
        *(({}, True), ({"betas": (0.3, 0.9), "eps": 0.0}, True), ({"lr": torch.tensor(0.1)}, False)),
        *(({"amsgrad": True}, False), ({"capturable": True}, False), ({"lr": float("inf")}, False)),
    ],
    ids=str,
)
def test_adam_as_published_is_known(kind, options, known):
    optimizer = kind([torch.zeros(3)], **options)
    assert optimizer.knows(optimizer.param_groups[0]) is known


@pytest.mark.parametrize(("kind", "decoupled"), [(ScoreAdam, False), (ScoreAdamW, True)])
def test_the_update_is_that_of_the_step_that_begins(kind, decoupled):
    optimizer = kind([torch.zeros(3)], 0.1, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.2)
    state = {"step": torch.tensor(6.0)}
    update = optimizer.update(optimizer.param_groups[0], state)
    assert (update.lr, update.betas, update.eps, update.decay, update.decoupled, update.step) == (
        *(0.1, (0.8, 0.9), 1e-4, 0.2, decoupled),
        7.0,
    )
    assert state == {"step": 7.0}
