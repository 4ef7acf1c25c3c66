from __future__ import annotations

import numpy as np
import pytest
import torch

import mpt
from mpt.search import mask as masks
from mpt.search.fast import loops
from mpt.search.fast.choice import MOST_EQUAL, Choice, choose, empty_signs, equals, unpack

SIZES = [1, 127, 128, 8191, 8192, 8193, 3 * loops.CHUNK + 777, 2 * loops.PART + 3 * loops.CHUNK + 5]


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(loops, "threads", lambda: 2)


def draw(n, *, seed=1):
    scores, weight = torch.randn(2, n, generator=torch.Generator().manual_seed(seed))
    for x in (scores, weight):
        x[:3] = torch.tensor([0.0, -0.0, -1.0])[: x[:3].numel()]
    return scores, weight


def threshold_of(scores, kept, absolute):
    return np.sort(np.abs(scores) if absolute else scores)[len(scores) - kept]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_choice_gives_the_bits_of_mask_gain_and_ticket_weight(n, absolute, dtype):
    scores, weight = draw(n)
    method, kept = mpt.Biprop(prune=0.8, score_abs=absolute), masks.num_kept(n, prune=0.8)
    cut = threshold_of(scores.numpy(), kept, absolute)
    choice = choose(scores.numpy(), weight.numpy(), cut, absolute=absolute)
    mask = torch.from_numpy((np.abs(scores.numpy()) if absolute else scores.numpy()) >= cut)
    gain = method.gain(weight, mask)
    expected = method.ticket_weight(weight, mask, gain)
    assert choice.ones == int(mask.sum())
    assert torch.equal(torch.tensor(choice.gain(), dtype=gain.dtype), gain)
    actual = choice.ticket_weight(weight, choice.gain(), dtype=dtype)
    assert actual.dtype == dtype
    assert torch.equal(actual, expected.to(dtype))
    assert torch.equal(torch.signbit(actual), torch.signbit(expected))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_ticket_weight_has_the_layout_of_the_weight(layout):
    scores, weight = (x.view(64, 64, 3, 3).contiguous(memory_format=layout) for x in draw(64 * 64 * 9))
    choice = choose(*loops.arrays(scores, weight), np.float32(1), absolute=True)
    actual = choice.ticket_weight(weight, choice.gain(), dtype=torch.bfloat16)
    assert actual.stride() == weight.stride()
    expected = mpt.Biprop(prune=0.5).ticket_weight(weight, scores.abs() >= 1, torch.tensor(choice.gain()))
    assert torch.equal(actual, expected.to(torch.bfloat16))


@pytest.mark.parametrize("place", [0, 8192, 2 * loops.PART])
def test_scores_that_are_not_numbers_leave_no_choice(place):
    scores, weight = draw(2 * loops.PART + 1)
    scores[place] = float("nan")
    assert choose(scores.numpy(), weight.numpy(), np.float32(1), absolute=True) is None


def test_a_choice_may_have_memory_of_its_own():
    scores, weight = draw(1000)
    own = empty_signs(1000)
    first = choose(scores.numpy(), weight.numpy(), np.float32(0.5), absolute=True, signs=own)
    again = choose(scores.numpy(), weight.numpy(), np.float32(1.5), absolute=True)
    assert isinstance(first, Choice)
    counts = [np.count_nonzero(unpack(choice.signs, 1000)) for choice in (first, again)]
    assert counts[0] == first.ones > again.ones == counts[1]
    assert first.signs is own


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("n", [50, 2 * loops.PART + 3 * loops.CHUNK + 5])
def test_weights_can_be_dropped_among_equal_scores(absolute, n):
    scores, weight = draw(n)
    places = np.array([0, n // 2, n - 1])
    scores[places] = torch.tensor([0.9, -0.9 if absolute else 0.9, 0.9])
    found = equals(scores.numpy(), np.float32(0.9), absolute=absolute)
    assert np.array_equal(found, places)
    choice = choose(scores.numpy(), weight.numpy(), np.float32(0.9), absolute=absolute)
    fewer = choice.without(found[1:], weight.numpy())
    assert fewer.ones == choice.ones - 2
    mask = (scores.abs() if absolute else scores) >= 0.9
    mask[places[1:]] = False
    assert torch.equal(torch.tensor(fewer.gain()), mpt.Biprop(prune=0.5).gain(weight, mask))
    assert np.array_equal(unpack(fewer.signs, n) != 0, mask.numpy())
    scores[: MOST_EQUAL + 1] = 0.9
    assert equals(scores.numpy(), np.float32(0.9), absolute=absolute) is None or n < MOST_EQUAL
