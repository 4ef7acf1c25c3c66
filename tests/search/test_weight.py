from __future__ import annotations

import numpy as np
import pytest
import torch

import mpt
from mpt.search import weight as weights
from mpt.search.layers import TicketWeight
from tests import reference
from tests.own_methods import PerChannel


def random_layer(shape=(8, 4, 3, 3)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_entry_is_exactly_minus_gain_zero_or_plus_gain(dtype):
    weight, scores = (x.to(dtype) for x in random_layer())
    method = mpt.Biprop(prune=0.7)
    mask = method.mask(scores, kept=method.num_kept(scores.numel()))
    gain = method.gain(weight, mask)
    b = method.ticket_weight(weight, mask, gain)
    assert gain.dtype == b.dtype == dtype
    assert set(b.unique().tolist()) == {-gain.item(), 0.0, gain.item()}
    assert torch.equal(b != 0, mask)
    assert not torch.signbit(b[~mask]).any()


def test_gain_and_ticket_weight_agree_with_the_reference():
    weight, scores = random_layer()
    mask = torch.from_numpy(reference.mask(scores.numpy(), 0.7))
    gain = weights.gain(weight, mask)
    assert gain.item() == pytest.approx(reference.gain(weight.numpy(), mask.numpy()), rel=1e-7)
    expected = reference.ticket_weight(weight.numpy(), mask.numpy())
    np.testing.assert_allclose(weights.binary_weight(weight, mask, gain), expected, rtol=1e-6)


def test_sign_of_zero_and_of_minus_zero_is_plus_one():
    zeros = torch.tensor([0.0, -0.0, -1.0])
    assert weights.signs(zeros).tolist() == [1.0, 1.0, -1.0]
    assert weights.binary_weight(zeros, torch.ones(3, dtype=torch.bool), torch.tensor(0.5)).tolist() == [0.5, 0.5, -0.5]


def test_gain_of_equal_magnitudes_is_that_magnitude_to_the_bit():
    gain = torch.tensor(0.1234567)
    weight = torch.where(torch.rand(100_003) < 0.5, gain, -gain)
    assert weights.gain(weight, torch.rand(100_003) < 0.3).item() == gain.item()


@pytest.mark.parametrize("score_grad", weights.SCORE_GRADS)
@pytest.mark.parametrize("score_abs", [True, False])
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("kind", [mpt.Biprop, mpt.EdgePopup])
def test_score_gradient_agrees_with_the_reference(kind, power, score_grad, score_abs):
    weight, scores = random_layer()
    scores[0, 0, 0, 0] = 0.0  # sign(0) = +1 here too
    upstream = torch.randn_like(weight)
    method = kind(prune=0.6, score_grad=score_grad, score_abs=score_abs, power=power)
    scores.requires_grad_()
    b = TicketWeight.apply(scores, weight, method, method.mask(scores, kept=method.num_kept(scores.numel())))
    b.backward(upstream)
    mask = reference.mask(scores.detach().numpy(), 0.6, score_abs=score_abs)
    expected = reference.score_gradient(
        upstream.numpy(),
        weight.numpy(),
        scores.detach().numpy(),
        reference.gain(weight.numpy(), mask),
        score_grad=score_grad,
        score_abs=score_abs,
        power=power,
    )
    np.testing.assert_allclose(scores.grad, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (7, 30)])
@pytest.mark.parametrize("score_abs", [True, False])
@pytest.mark.parametrize("score_grad", weights.SCORE_GRADS)
def test_score_gradient_with_one_gain_per_channel_agrees_with_the_reference(score_grad, score_abs, shape):
    weight, scores = random_layer(shape)
    scores.requires_grad_()
    method = PerChannel(prune=0.6, score_grad=score_grad, score_abs=score_abs)
    mask = method.mask(scores, kept=method.num_kept(scores.numel()))
    upstream = torch.randn_like(weight)
    TicketWeight.apply(scores, weight, method, mask).backward(upstream)
    expected = reference.score_gradient(
        upstream.numpy(),
        weight.numpy(),
        scores.detach().numpy(),
        reference.channel_gains(weight.numpy(), mask.numpy()),
        score_grad=score_grad,
        score_abs=score_abs,
    )
    np.testing.assert_allclose(scores.grad, expected, rtol=1e-5)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("score_grad", weights.SCORE_GRADS)
def test_the_power_s_gradient_is_that_of_the_propagated_score(power, score_grad):
    weight, scores = random_layer()
    leaf = scores.clone().requires_grad_()
    propagated = leaf * leaf.abs() ** (power - 1)  # autograd takes the derivative that the reference writes down
    plain = mpt.Biprop(prune=0.6, score_grad=score_grad)
    mask = plain.mask(scores, kept=100)
    TicketWeight.apply(propagated, weight, plain, mask).backward(weight * 3)
    own = scores.clone().requires_grad_()
    TicketWeight.apply(own, weight, mpt.Biprop(prune=0.6, score_grad=score_grad, power=power), mask).backward(
        weight * 3
    )
    torch.testing.assert_close(own.grad, leaf.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("selection", ["layerwise", "global"])
@pytest.mark.parametrize("power", [2.0, 3.0, 4.0])
def test_the_mask_of_given_scores_is_the_same_for_every_power(mlp, selection, power):
    plain, powered = (
        mpt.convert(mlp, mpt.Biprop(prune=0.6, selection=selection, power=a), seed=0) for a in (1.0, power)
    )
    scores = [layer.scores.detach().numpy() for layer in (plain[0], plain[2])]
    propagated = [reference.propagated(s.astype(np.float64), power) for s in scores]
    if selection == "global":
        expected = reference.global_masks(propagated, 0.6)
    else:
        expected = [reference.mask(s, 0.6) for s in propagated]
    for layer, mask in zip((0, 2), expected, strict=True):
        assert torch.equal(powered[layer].scores, plain[layer].scores)
        assert np.array_equal(powered[layer].mask().numpy(), mask)
        assert np.array_equal(plain[layer].mask().numpy(), mask)


def test_edge_popup_keeps_real_weights():
    weight, scores = random_layer()
    method = mpt.EdgePopup(prune=0.6)
    mask = method.mask(scores, kept=100)
    b = method.ticket_weight(weight, mask, method.gain(weight, mask))
    assert torch.equal(b[mask], weight[mask])
    assert not b[~mask].any()
