from __future__ import annotations

import pytest
import torch
from torch import nn

import mpt
from mpt import backbones
from mpt.theory.target import additions, matrix, prepare, rows_of
from tests.theory.networks import Cnn, cnn, images, mlp, seeded


def test_folding_batchnorm_changes_no_output():
    net = cnn()
    target, x = prepare(net), images(net)
    assert target.folded == {"features.1": "features.0"}
    assert list(target.layers) == ["features.0", "features.4", "classifier"]
    assert torch.allclose(target.graph(x.double()), net(x).double(), atol=1e-5)
    assert isinstance(net.features[1], nn.BatchNorm2d)


def test_a_softmax_at_the_end_is_left_out():
    net = mlp()
    soft = nn.Sequential(net, nn.LogSoftmax(1)).eval()
    x = images(net)
    assert torch.allclose(prepare(soft).graph(x.double()), net(x).double(), atol=1e-5)


def test_batchnorm_that_two_layers_feed_is_not_folded():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.a(x)
            return self.b(torch.relu(self.norm(y)) + torch.relu(y))

    target = prepare(seeded(Shared))
    assert target.folded == {}
    assert len(additions(target.graph)) == 1


def test_rows_are_outputs_times_places():
    layer = nn.Conv2d(3, 2, 2)
    rows = rows_of(matrix(layer))
    assert rows.shape == (8, 3)
    assert rows[5, 1] == pytest.approx(layer.weight[1, 1, 0, 1].item())


def test_what_the_theorems_do_not_cover_is_refused_in_one_sentence():
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    reflecting = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"))
    broken = mlp()
    with torch.no_grad():
        broken.classifier[0].weight[0, 0] = torch.nan
    searched = mpt.convert(mlp(), mpt.Biprop(prune=0.5))
    signs = nn.Sequential(nn.Linear(4, 4), mpt.BinaryActivation(), nn.Linear(4, 2))
    cases = [
        (grouped, "layer 0 has groups=2"),
        (reflecting, "padding_mode=reflect"),
        (broken, "not finite"),
        (searched, "a searched ticket"),
        (signs, "binary activations"),
        (nn.Sequential(nn.ReLU()), "no Linear or Conv2d layer"),
        (nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(2, 2)), "only Linear and Conv2d"),
    ]
    for net, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            prepare(net)
        assert "\n" not in str(caught.value)


def test_a_forward_that_depends_on_values_has_no_graph():
    class Choosing(Cnn):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    target = prepare(seeded(Choosing))
    assert target.graph is None
    assert target.obstacle


@pytest.mark.slow
def test_torchvision_s_networks_are_followed():
    target = prepare(backbones.torchvision(name="resnet18"))
    assert len(target.layers) == 21
    assert len(target.folded) == 20


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (None, "must be a network, a torch module, got NoneType"),
        ("x.safetensors", r"got str: of a ticket file it is mpt.Ticket.load\(file\).network\(\)"),
        (nn.Sequential(nn.Linear(3, 2, device="meta")), "parameter 0.weight of the target holds no numbers yet"),
    ],
)
def test_what_is_no_trained_network_is_refused(network, words):
    with pytest.raises(ValueError, match=words):
        prepare(network)
