from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mpt.search.initializers import INITIALIZERS, random_scores, random_signs, random_weight
from mpt.streams import stream_key
from tests import reference

SHAPE = torch.Size((64, 32, 3, 3))
FAN_IN, FAN_OUT = 32 * 9, 64 * 9


def weight(**changes):
    choices = {"seed": 0, "layer": "conv", "init": "kaiming_normal", "scale_fan": "none", "prune": 0.8} | changes
    return random_weight(SHAPE, **choices)


def test_signs_are_the_raw_philox_words_of_seed_and_layer_name_forever():
    # the words below must never change: the signs of old tickets are computed from them
    words = np.random.Philox(key=np.array(stream_key(7, "signs/conv1"), dtype=np.uint64)).random_raw(2)
    assert [int(word) for word in words] == [GOLDEN_WORD_0, GOLDEN_WORD_1]
    bits = [(int(words[i // 64]) >> (i % 64)) & 1 for i in range(100)]
    assert random_signs(100, seed=7, layer="conv1").tolist() == [1.0 if bit else -1.0 for bit in bits]


GOLDEN_WORD_0 = 6658850446336420420
GOLDEN_WORD_1 = 7695171049293002346


@pytest.mark.parametrize("init", [name for name in INITIALIZERS if name != "unsigned_constant"])
def test_signs_of_a_weight_follow_from_its_seed(init):
    signs = random_signs(SHAPE.numel(), seed=3, layer="a.b")
    assert np.array_equal(np.sign(weight(init=init, seed=3, layer="a.b").numpy().ravel()), signs)


@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("kaiming_normal", math.sqrt(2 / FAN_IN)),
        ("kaiming_uniform", math.sqrt(2 / FAN_IN)),
        ("signed_constant", math.sqrt(2 / FAN_IN)),
        ("unsigned_constant", math.sqrt(2 / FAN_IN)),
        ("xavier_normal", math.sqrt(2 / (FAN_IN + FAN_OUT))),
        ("xavier_constant", math.sqrt(2 / (FAN_IN + FAN_OUT))),
    ],
)
def test_initializers_have_the_published_spread(init, std):
    values = weight(init=init)
    assert values.square().mean().sqrt().item() == pytest.approx(std, rel=0.03)
    if init.endswith("constant"):
        assert torch.equal(values.abs().unique(), torch.tensor([std], dtype=torch.float32))
    assert bool((values > 0).all()) is (init == "unsigned_constant")


@pytest.mark.parametrize(("scale_fan", "factor"), [("none", 1.0), ("kept", 0.2), ("published", 0.8)])
def test_scale_fan_multiplies_the_fan(scale_fan, factor):
    ratio = weight(scale_fan=scale_fan) / weight(scale_fan="none")
    assert ratio.mean().item() == pytest.approx(1 / math.sqrt(factor), rel=1e-5)


def test_kaiming_normal_is_normal():
    values = weight().flatten().double() / math.sqrt(2 / FAN_IN)
    assert values.mean().item() == pytest.approx(0, abs=0.03)
    assert values.pow(4).mean().item() == pytest.approx(3, rel=0.1)


def test_scores_are_uniform_within_one_over_the_root_of_fan_in():
    scores = random_scores(SHAPE, seed=0, layer="conv") * math.sqrt(FAN_IN)
    assert scores.abs().max().item() <= 1
    assert scores.abs().mean().item() == pytest.approx(0.5, rel=0.03)
    assert scores.mean().item() == pytest.approx(0, abs=0.02)


def test_seed_layer_and_stream_each_give_other_numbers():
    base = weight()
    assert torch.equal(base, weight())
    assert not torch.equal(base, weight(seed=1))
    assert not torch.equal(base, weight(layer="other"))
    scores = random_scores(SHAPE, seed=0, layer="conv")
    assert abs(np.corrcoef(base.numpy().ravel(), scores.numpy().ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        weight(seed=seed)


def test_constant_scores_are_the_standard_deviation_of_uniform_ones():
    shape = torch.Size((64, 32, 3, 3))
    uniform = random_scores(shape, seed=0, layer="x")
    constant = random_scores(shape, seed=0, layer="x", init="constant")
    assert len(constant.unique()) == 1
    assert constant[0, 0, 0, 0].item() == pytest.approx(uniform.std().item(), rel=0.02)


@pytest.mark.parametrize("init", ["uniform", "constant"])
@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_a_matched_start_propagates_to_the_plain_one(init, power):
    shape = torch.Size((16, 8, 3, 3))
    plain = random_scores(shape, seed=0, layer="x", init=init, start="plain", power=power)
    matched = random_scores(shape, seed=0, layer="x", init=init, start="matched", power=power)
    assert torch.equal(plain, random_scores(shape, seed=0, layer="x", init=init))
    np.testing.assert_allclose(reference.propagated(matched.double().numpy(), power), plain, rtol=1e-5)
