from __future__ import annotations

import json

import pytest

from tests.golden import make

GOLDEN = json.loads(make.FILE.read_text())


@pytest.mark.parametrize("name", make.METHODS)
def test_counts_signs_scores_masks_and_gains_of_seed_0_have_not_changed(name):
    assert make.exact_numbers(make.METHODS[name]) == GOLDEN[name]["start"]


@pytest.mark.parametrize("name", make.METHODS)
def test_the_loss_of_the_first_step_has_not_changed(name):
    assert make.first_loss(make.METHODS[name]) == pytest.approx(GOLDEN[name]["first_loss"], rel=make.TOLERANCE)
