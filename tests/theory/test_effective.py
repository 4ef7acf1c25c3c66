from __future__ import annotations

import pytest
import torch

from mpt.theory.construct import build_ticket
from mpt.theory.effective import effective_layers, of_chain
from mpt.theory.target import prepare
from tests.theory.networks import mlp


def random_pair(*, rows=3, columns=4, width=20, kernel=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    inner = torch.zeros(width, columns)
    inner[torch.arange(width), torch.randint(0, columns, (width,), generator=generator)] = torch.randn(
        width, generator=generator
    )
    outer = torch.randn(rows, width, *kernel, generator=generator)
    return (inner.view(width, columns, *(1,) * len(kernel)), outer)


def test_effective_weights_are_what_a_linear_pair_computes():
    inner, outer = random_pair()
    layer = of_chain([inner, outer], bias=torch.zeros(3).double())
    x = torch.randn(50, 4).double()
    seen = torch.relu(x @ inner.double().T) @ outer.double().T
    expected = x.clamp(min=0) @ layer.positive.T + x.clamp(max=0) @ layer.negative.T
    assert torch.allclose(seen, expected, atol=1e-12)
    assert 0 < layer.slack.max() < 1e-13


def test_effective_weights_are_what_a_convolution_computes():
    inner, outer = random_pair(kernel=(3, 2))
    layer = of_chain([inner, outer], bias=torch.zeros(3).double())
    x, conv = torch.randn(5, 4, 6, 6).double(), torch.nn.functional.conv2d
    seen = conv(torch.relu(conv(x, inner.double())), outer.double())
    assert torch.allclose(seen, conv(x.clamp(min=0), layer.positive) + conv(x.clamp(max=0), layer.negative), atol=1e-12)


def test_a_chain_of_positive_layers_has_effective_weights_and_others_have_none():
    inner, outer = random_pair()
    middle = (torch.rand(7, 20) < 0.2).float() * 0.5
    layer = of_chain([inner, middle, outer[:, :7]], bias=torch.zeros(3).double())
    x = torch.randn(50, 4).double()
    seen = torch.relu(torch.relu(x @ inner.double().T) @ middle.double().T) @ outer[:, :7].double().T
    assert torch.allclose(seen, x.clamp(min=0) @ layer.positive.T + x.clamp(max=0) @ layer.negative.T, atol=1e-12)
    middle[0, 0] = -1
    assert of_chain([inner, middle, outer[:, :7]], bias=torch.zeros(3).double()).positive is None
    inner[0] = 1
    assert of_chain([inner, outer], bias=torch.zeros(3).double()).positive is None


def test_a_ticket_and_its_network_have_the_same_effective_weights():
    made = build_ticket(mlp(), accuracy=0.05)
    of_ticket, of_net = (effective_layers(made.target, built) for built in (made.ticket, made.network()))
    for name, layer in of_ticket.items():
        assert torch.equal(layer.positive, of_net[name].positive)


def test_a_network_of_another_target_is_refused():
    made = build_ticket(mlp(), accuracy=0.05)
    with pytest.raises(ValueError, match="other shapes"):
        effective_layers(prepare(mlp(hidden=(5,))), made.ticket)
    with pytest.raises(ValueError, match="no random layers for"):
        effective_layers(made.target, mlp())
