from __future__ import annotations

import pytest

import mpt
from mpt.theory import limits
from mpt.theory.limits import box
from mpt.theory.target import prepare
from tests.theory.networks import cnn, mlp


def test_what_does_not_fit_into_the_memory_is_refused_with_an_accuracy_that_does(monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 200_000)
    monkeypatch.setattr("mpt.data.memory.memory", lambda: 200_000)
    with pytest.raises(ValueError, match=r"hidden widths classifier.0 .* accuracy=0\.\d+ fits") as caught:
        mpt.construct(mlp(), accuracy=0.001)
    fits = float(str(caught.value).rpartition("accuracy=")[2].split()[0])
    mpt.construct(mlp(), accuracy=fits)


def test_a_width_that_no_file_describes_is_refused(monkeypatch):
    monkeypatch.setattr(limits, "MAX_NUMBER", 1000)
    with pytest.raises(ValueError, match="describes layers of at most 1,000 features"):
        mpt.construct(mlp(), accuracy=0.001)


def test_bounds_of_inputs_are_numbers_or_one_for_each_channel():
    target = prepare(cnn())
    low, high = box(target, (-0.5, [2.0]), None)
    assert low.shape == high.shape == (1, 8, 8)
    assert bool((low == -0.5).all() and (high == 2).all())
