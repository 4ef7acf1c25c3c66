from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import mpt
from mpt import backbones
from mpt.search import weight as weights
from mpt.search.layers import TicketConv2d, TicketLayer, TicketLinear, ticket_layers
from tests import reference

METHODS = {"biprop": mpt.Biprop(prune=0.8), "edge_popup": mpt.EdgePopup(prune=0.8)}


def transcribed(net, score_grad="weight"):
    """The same network by the reference: plain layers whose weight is a leaf, so that dL/db can be read off."""
    plain = mpt.to_dense(net).train()
    for name, layer in ticket_layers(net).items():
        weight, scores = layer.weight.detach().numpy(), layer.scores.detach().numpy()
        mask = reference.mask(scores, net.conversion.method.prune)
        assert np.array_equal(layer.mask().numpy(), mask)
        plain.get_submodule(name).weight.data.copy_(torch.from_numpy(reference.ticket_weight(weight, mask)))
    return plain


def conv4():
    return backbones.conv4(width=0.25, image_size=16)


def resnet18():
    return torchvision.models.resnet18(num_classes=10)


@pytest.mark.parametrize(
    ("backbone", "score_grad"),
    [
        *((conv4, score_grad) for score_grad in weights.SCORE_GRADS),
        *(pytest.param(resnet18, score_grad, marks=pytest.mark.slow) for score_grad in weights.SCORE_GRADS),
    ],
)
def test_forward_and_score_gradients_agree_with_the_reference(backbone, score_grad):
    torch.manual_seed(1)
    net = mpt.convert(backbone(), mpt.Biprop(prune=0.8, score_grad=score_grad), seed=0).train().double()
    plain = transcribed(net).double()
    x, y = torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    logits, expected = net(x), plain(x)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-8)
    F.cross_entropy(logits, y).backward()
    F.cross_entropy(expected, y).backward()
    for name, layer in ticket_layers(net).items():
        weight, scores = layer.weight.detach().numpy(), layer.scores.detach().numpy()
        gain = reference.gain(weight, reference.mask(scores, 0.8))
        upstream = plain.get_submodule(name).weight.grad.numpy()
        ds = reference.score_gradient(upstream, weight, scores, gain, score_grad=score_grad)
        np.testing.assert_allclose(layer.scores.grad.numpy(), ds, rtol=1e-5, atol=1e-7 * np.abs(ds).max())


def test_conversion_leaves_the_backbone_as_it_is(mlp):
    before = copy.deepcopy(mlp.state_dict())
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0)
    assert type(mlp[0]) is nn.Linear
    assert type(net[0]) is TicketLinear
    assert all(torch.equal(value, before[name]) for name, value in mlp.state_dict().items())
    assert set(net.state_dict()) == {"0.weight", "0.scores", "2.weight", "2.scores"}


def test_one_seed_gives_one_network_and_none_keeps_the_backbones_weights(mlp):
    torch.manual_seed(5)
    one, other = (
        mpt.convert(m, mpt.Biprop(prune=0.5), seed=7) for m in (mlp, copy.deepcopy(mlp).requires_grad_(False))
    )
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    kept = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=None)
    assert torch.equal(kept[0].weight, mlp[0].weight)
    assert not torch.equal(one[0].weight, mlp[0].weight)


def test_shared_layers_stay_shared():
    shared = nn.Linear(6, 6)
    net = mpt.convert(nn.Sequential(shared, nn.ReLU(), shared), mpt.Biprop(prune=0.5), seed=0)
    assert net[0] is net[2]
    assert len(list(net.parameters())) == 2


def test_layers_that_share_a_weight_share_their_scores():
    backbone = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 6, bias=False))
    backbone[2].weight = backbone[0].weight
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0)
    assert net[0].weight is net[2].weight
    assert net[0].scores is net[2].scores
    assert torch.equal(mpt.to_dense(net)(torch.ones(1, 6)), net(torch.ones(1, 6)))


def test_a_weight_tied_to_something_else_is_refused():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(self.embedding(x.long()))

    with pytest.raises(ValueError, match=r"embedding\.weight is tied to .*\(head\): .* dense=\['head'\]$"):
        mpt.convert(Tied(), mpt.Biprop(prune=0.5), seed=0, example=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"embedding\.weight, 1\.embedding\.weight are tied .*'0\.head', '1\.head'"):
        mpt.convert(nn.ModuleList([Tied(), Tied()]), mpt.Biprop(prune=0.5), seed=0, example=torch.zeros(2, 3))


def test_a_seed_that_is_no_whole_number_is_refused(mlp):
    for seed in (1.5, True, -1):
        with pytest.raises(ValueError, match="seed must be a whole number"):
            mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=seed)


def test_a_copy_made_inside_frozen_is_not_frozen(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0).eval()
    with mpt.frozen(net):
        other = copy.deepcopy(net)
    other[0].scores.data.neg_().add_(0.3)
    assert torch.equal(other[0].ticket_weight() != 0, other[0].mask())
    assert other[0].frozen_ticket is None


def test_options_that_the_dense_baseline_does_not_support_are_refused(mlp):
    with pytest.raises(ValueError, match="Dense trains every parameter"):
        mpt.convert(mlp, mpt.Dense(), seed=0, learn_batchnorm=True)


def test_names_that_match_no_layer_are_refused(mlp):
    with pytest.raises(ValueError, match="dense names 'fc', which is none of 0, 2"):
        mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0, dense=("fc",))
    with pytest.raises(ValueError, match="nothing to search"):
        mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0, dense=("*",))


def test_layers_left_out_keep_the_backbones_values_frozen(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0, dense=("2",))
    assert type(net[2]) is nn.Linear
    assert torch.equal(net[2].weight, mlp[2].weight)
    assert not net[2].weight.requires_grad


def test_dense_trains_everything_and_has_no_ticket_layers(mlp):
    net = mpt.convert(mlp, mpt.Dense(), seed=0)
    assert not ticket_layers(net)
    assert all(p.requires_grad for p in net.parameters())
    searched = mpt.convert(mlp, mpt.Biprop(prune=0.0, scale_fan="none"), seed=0)
    assert torch.equal(net[0].weight, searched[0].weight)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS.values(), mpt.Dense()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("channels_last", [False, True])
def test_to_dense_gives_the_same_logits_to_the_bit(method, channels_last):
    net = mpt.convert(torchvision.models.resnet18(num_classes=10), method, seed=0).eval()
    x = torch.randn(2, 3, 32, 32)
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    dense = mpt.to_dense(net)
    assert not any(isinstance(m, TicketLayer) for m in dense.modules())
    assert torch.equal(net(x), dense(x))


def test_a_converted_network_survives_copy_and_state_dict(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0)
    other = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=1)
    other.load_state_dict(net.state_dict())
    x = torch.randn(3, 6)
    assert torch.equal(other(x), net(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


def test_hooks_and_grouped_layers_survive_conversion():
    conv = nn.Conv2d(4, 4, 3, groups=4)
    seen = []
    conv.register_forward_hook(lambda *_: seen.append(1))
    net = mpt.convert(nn.Sequential(conv), mpt.Biprop(prune=0.5), seed=0)
    assert type(net[0]) is TicketConv2d
    seen.clear()
    net(torch.ones(1, 4, 5, 5))
    assert seen == [1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_have_the_dtype_of_the_backbone(mlp, dtype):
    net = mpt.convert(mlp.to(dtype), mpt.Biprop(prune=0.5), seed=0)
    assert net[0].scores.dtype == net[0].weight.dtype == dtype
    assert int(net[0].mask().sum()) == 24


def test_fractions_by_layer_set_the_number_kept_and_the_weights_spread(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5, prune_layers={"2": 0.75, "0*": 0.0}), seed=0)
    assert [int(net[i].mask().sum()) for i in (0, 2)] == [48, 6]
    plain = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0)
    torch.testing.assert_close(net[2].weight, plain[2].weight * 2**0.5)  # fan_in (1 - P)
    torch.testing.assert_close(net[0].weight, plain[0].weight / 2**0.5)


def test_fractions_by_layer_that_match_nothing_or_contradict_are_refused(mlp):
    with pytest.raises(ValueError, match=r"prune_layers names 'classifier\.\*', which is none of 0, 2"):
        mpt.convert(mlp, mpt.Biprop(prune=0.5, prune_layers={"classifier.*": 0.5}), seed=0)
    with pytest.raises(ValueError, match=r"prune_layers names '2', which is none of 0"):
        mpt.convert(mlp, mpt.Biprop(prune=0.5, prune_layers={"2": 0.5}), seed=0, dense=("2",))
    with pytest.raises(ValueError, match=r"prune_layers gives layer '2' several fractions, by \* and 2: let one"):
        mpt.convert(mlp, mpt.Biprop(prune=0.5, prune_layers={"*": 0.5, "2": 0.4}), seed=0)
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    tied[2].weight = tied[0].weight
    with pytest.raises(ValueError, match="prune_layers gives layers '0' and '2' two fractions, and they share one"):
        mpt.convert(tied, mpt.Biprop(prune=0.5, prune_layers={"0": 0.4}), seed=0)
    net = mpt.convert(tied, mpt.Biprop(prune=0.5, prune_layers={"*": 0.4}), seed=0)
    assert torch.equal(net[0].mask(), net[2].mask())
