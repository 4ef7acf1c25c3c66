from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import mpt
from mpt.search.dead import DeadLayers
from mpt.search.layers import ticket_layers


class Residual(nn.Module):
    """Blocks ``x + gamma f(x)``."""

    def __init__(self, *, blocks=3, value=1e-6, buffer=False):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
        self.blocks = nn.ModuleList(nn.ModuleDict({"fc": nn.Linear(16, 16)}) for _ in range(blocks))
        for block in self.blocks:
            if buffer:
                block.register_buffer("gamma", torch.full((16,), value))
            else:
                block.gamma = nn.Parameter(torch.full((16,), value))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block.gamma * torch.relu(block["fc"](x))
        return self.head(x)


def converted(backbone, **options):
    """The converted network, and its warning of dead layers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = mpt.convert(backbone, mpt.Biprop(prune=0.5), **{"seed": 0, "example": torch.zeros(2, 8), **options})
    texts = [str(w.message) for w in caught if issubclass(w.category, DeadLayers)]
    return net, texts[0] if texts else None


def test_a_frozen_scale_near_zero_is_named_with_every_layer_that_it_starves():
    _, text = converted(Residual(), seed=None)
    assert text.startswith("3 of 5 searched layers will hardly learn, their scores get next to no gradient: ")
    assert "blocks.0.fc, blocks.1.fc, blocks.2.fc, because blocks.0.gamma, blocks.1.gamma, blocks.2.gamma" in text
    assert "trained=['blocks.0.gamma', 'blocks.1.gamma', 'blocks.2.gamma']" in text
    _, text = converted(Residual(blocks=5), seed=None)
    assert "trained=['*.gamma']" in text


@pytest.mark.parametrize("options", [{"seed": 0}, {"seed": None, "trained": ["*.gamma"]}])
def test_what_the_warning_advises_ends_it(options):
    net, text = converted(Residual(), **options)
    assert text is None
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0)
    before = {name: layer.mask() for name, layer in ticket_layers(net).items()}
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    labels = x[:, :5].argmax(1)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    assert all(not torch.equal(layer.mask(), before[name]) for name, layer in ticket_layers(net).items())


def test_layers_that_reach_the_output_through_next_to_nothing_are_named_without_a_scale():
    _, text = converted(Residual(buffer=True, blocks=4))
    assert "4 of 6 searched layers" in text
    assert "blocks.3.fc, because what they compute hardly reaches the output" in text
    assert "dense=['*.fc']" in text


def test_gradients_that_grow_towards_the_input_are_no_fault():
    layers = [nn.Linear(8, 64), *(layer for _ in range(12) for layer in (nn.ReLU(), nn.Linear(64, 64)))]
    net, text = converted(nn.Sequential(*layers, nn.ReLU(), nn.Linear(64, 4)), binary_activations=True, spline_t=0.02)
    assert text is None
    assert len(ticket_layers(net)) == 14


def test_the_backward_leaves_gradients_statistics_mode_and_generator_alone():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).train()
    state = torch.random.get_rng_state()
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0, example=torch.zeros(2, 3, 8, 8))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(p.grad is None for p in net.parameters())
    assert int(net[1].num_batches_tracked) == 0
    assert bool((net[1].running_mean == 0).all())
    assert net[1].training
    assert net.training


def test_a_search_whose_scores_are_not_learned_has_no_dead_layers():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    method = mpt.Biprop(prune=0.5, learn_scores=False)
    mpt.convert(
        backbone, method, seed=0, learn_batchnorm=True, example=torch.zeros(2, 3, 8, 8)
    )  # a warning is an error


class Branch(nn.Module):
    """A batch-norm, dropout and a layer, whose output goes through one function in training and another otherwise."""

    def __init__(self, evaluated, trained):
        super().__init__()
        self.evaluated, self.trained, self.calls = evaluated, trained, 0
        self.fc, self.norm = nn.Linear(8, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        self.calls += self.training
        function = self.trained if self.training else self.evaluated
        return function(nn.functional.dropout(self.norm(self.fc(x)), 0.5, self.training))


def detach(x):
    return x.softmax(1).detach()


def without_gradient(x):
    with torch.no_grad():
        return x * 2


def in_inference(x):
    with torch.inference_mode():
        return x * 2


def fail(x):
    raise KeyError("targets")


def in_inference_before_more(x):
    return nn.functional.linear(in_inference(x), torch.ones(4, 4, requires_grad=True))


@dataclass(frozen=True, kw_only=True)
class Counting(mpt.Biprop):
    """Notes its updates."""

    selection: str = "global"
    updates: ClassVar[list[int]] = []

    def update(self, layers, *, seed, epoch, step):
        self.updates.append(step)


@pytest.mark.parametrize("trained", [lambda x: x, fail], ids=["trained", "unknown"])
@pytest.mark.parametrize(
    "evaluated", [detach, without_gradient, in_inference, lambda x: {"label": detach(x)}, lambda x: x.argmax(1)]
)
@pytest.mark.parametrize("example", [None, torch.ones(5, 8)], ids=["guess", "example"])
def test_a_network_that_detaches_in_evaluation_alone_is_searched_and_stays_as_it_is(evaluated, trained, example):
    Counting.updates.clear()
    backbone, state = Branch(evaluated, trained), torch.random.get_rng_state()
    net = mpt.convert(backbone, Counting(prune=0.5), example=example)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert net.training
    assert net.calls == int(net.norm.num_batches_tracked) == len(Counting.updates) == 0
    assert bool((net.norm.running_mean == 0).all())
    if trained is not fail:
        net(torch.randn(5, 8)).square().sum().backward()
        assert net.fc.scores.grad.any()
        assert Counting.updates == [0]


@pytest.mark.parametrize("trained", [detach, without_gradient, lambda x: {"y": [detach(x)]}])
def test_a_network_that_detaches_in_training_too_is_refused(trained):
    Counting.updates.clear()
    with pytest.raises(ValueError, match=r"^no gradient reaches the scores, because the network detaches its output"):
        mpt.convert(Branch(detach, trained), Counting(prune=0.5), example=torch.randn(5, 8))
    assert not Counting.updates


def test_a_network_that_fails_with_gradients_in_evaluation_alone_is_searched():
    net = mpt.convert(Branch(in_inference_before_more, lambda x: x), mpt.Biprop(prune=0.5), example=torch.randn(5, 8))
    net(torch.randn(5, 8)).square().sum().backward()
    assert net.fc.scores.grad.any()
    with pytest.raises(ValueError, match=r"Branch cannot .*\(RuntimeError: Inference tensors .*\): correct line"):
        mpt.convert(Branch(in_inference_before_more, fail), mpt.Biprop(prune=0.5), example=torch.randn(5, 8))


def nested_by_strides():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a prototype
        return torch.nested.nested_tensor([torch.randn(2, 8), torch.randn(3, 8)], layout=torch.strided)


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x, edges=None):
        x = self.fc(x)
        return x if edges is None else edges @ x


@pytest.mark.parametrize(
    "example",
    [
        lambda: (torch.randn(5, 8), torch.eye(5).to_sparse()),
        lambda: torch.nested.nested_tensor([torch.randn(2, 8), torch.randn(3, 8)], layout=torch.jagged),
        nested_by_strides,
        lambda: torch.zeros(0, 8),
    ],
    ids=["sparse", "nested", "nested by strides", "empty"],
)
def test_an_example_in_which_no_noise_can_be_put_is_taken_as_it_is(example):
    assert list(ticket_layers(mpt.convert(Graph(), mpt.Biprop(prune=0.5), example=example()))) == ["fc"]


def test_an_empty_input_beside_another_hides_no_layer_that_hardly_learns():
    class Cached(Residual):
        def forward(self, x, cache):
            return super().forward(torch.cat([cache, x]))

    _, text = converted(Cached(buffer=True, blocks=4), example=(torch.randn(4, 8), torch.zeros(0, 8)))
    assert "4 of 6 searched layers" in text


def test_a_network_that_takes_no_noise_is_searched():
    class Bright(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x):
            if (x < 0).any():
                raise ValueError("pixels are positive")
            return self.fc(x)

    assert converted(Bright())[1] is None
