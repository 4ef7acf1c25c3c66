from __future__ import annotations

import json

import pytest

from tests.golden import make

GOLDEN = json.loads(make.FILE.read_text())


@pytest.mark.parametrize("name", make.METHODS)
def test_signs_masks_and_gains_of_seed_0_have_not_moved(name):
    assert make.start_of(make.METHODS[name]) == GOLDEN[name]["start"]


@pytest.mark.parametrize("name", make.METHODS)
def test_training_losses_have_not_moved(name):
    assert make.losses_of(make.METHODS[name]) == pytest.approx(GOLDEN[name]["losses"], rel=1e-3)
