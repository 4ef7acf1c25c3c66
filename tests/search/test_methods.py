from __future__ import annotations

import pytest

import mpt


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"prune": 1.2}, "prune is the fraction removed and must be in"),
        ({"prune": 0.5, "score_grad": "sgn"}, "score_grad must be one of weight, sign, gain, got 'sgn'"),
        ({"prune": 0.5, "init": "zeros"}, "init must be one of kaiming_normal"),
        ({"prune": 0.5, "scale_fan": "yes"}, "scale_fan must be one of none, kept, published"),
        ({"prune": 0.5, "score_abs": "abc"}, "score_abs is true or false"),
        ({"prune": 0.0, "scale_fan": "published"}, "scale_fan=published multiplies the fan by prune"),
    ],
)
@pytest.mark.parametrize("kind", [mpt.Biprop, mpt.EdgePopup])
def test_impossible_choices_are_refused_with_their_name(kind, choices, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(**choices)


def test_the_dense_baseline_removes_nothing():
    with pytest.raises(ValueError, match="dense baseline removes none"):
        mpt.Dense(prune=0.5)


def test_a_method_is_frozen_and_compares_by_its_choices():
    assert mpt.Biprop(prune=0.5) == mpt.Biprop(prune=0.5) != mpt.Biprop(prune=0.6)
    with pytest.raises(AttributeError):
        mpt.Biprop(prune=0.5).prune = 0.6
