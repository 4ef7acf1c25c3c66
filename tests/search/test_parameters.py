from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.models.convnext import CNBlockConfig

import mpt
from mpt import backbones
from mpt.search.layers import TicketLayer, ticket_layers

METHODS = {"biprop": mpt.Biprop(prune=0.8), "edge_popup": mpt.EdgePopup(prune=0.8)}


@pytest.mark.parametrize("method", METHODS)
def test_biases_are_dropped_unless_asked_for(mlp, method):
    assert mpt.convert(mlp, METHODS[method], seed=0)[0].bias is None
    kept = mpt.convert(mlp, type(METHODS[method])(prune=0.8, bias=True), seed=0)
    assert torch.equal(kept[0].bias, mlp[0].bias)
    assert not kept[0].bias.requires_grad


def test_everything_that_is_not_a_score_is_frozen_unless_named():
    backbone = torchvision.models.ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=10)
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0, trained=("*.layer_scale",))
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {name.rsplit(".", 1)[-1] for name in trained} == {"scores", "layer_scale"}
    table = str(mpt.layer_table(net))
    for name, p in net.named_parameters():
        if not name.endswith(".scores") and not isinstance(net.get_submodule(name.rpartition(".")[0]), TicketLayer):
            line = next(line for line in table.splitlines() if line.startswith(name + " "))
            assert line.endswith("trained" if p.requires_grad else "frozen")


def test_batchnorm_has_no_scale_and_shift_unless_learned():
    backbone = backbones.cifar_resnet20(width=0.5)
    plain = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0)
    assert all(m.weight is None and m.bias is None for m in plain.modules() if isinstance(m, nn.BatchNorm2d))
    learned = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0, learn_batchnorm=True).train()
    learned(torch.randn(4, 3, 32, 32)).square().sum().backward()
    norms = [m for m in learned.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 21
    assert all(m.weight.grad.abs().sum() > 0 and m.bias.grad.abs().sum() > 0 for m in norms)


def test_learning_batchnorm_without_a_batchnorm_is_refused(mlp):
    with pytest.raises(ValueError, match=r"learn_batchnorm.*no batch-norm"):
        mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0, learn_batchnorm=True)


def test_a_batchnorm_that_is_no_identity_is_kept_frozen_with_the_backbones_weights():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    nn.init.constant_(backbone[1].weight, 2.0)
    kept = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=None)
    assert kept[1].weight.tolist() == [2.0] * 4
    assert not kept[1].weight.requires_grad
    assert mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0)[1].weight is None


class Nested(nn.Module):
    """Batch-norms in a Sequential of a Sequential, in a custom module, synchronised, and derived."""

    class Own(nn.BatchNorm2d):
        pass

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), nn.ReLU())
        self.branches = nn.ModuleDict({"a": nn.Conv2d(4, 4, 1), "norm": Nested.Own(4)})
        self.synchronised, self.fc = nn.SyncBatchNorm(4), nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        x = self.branches["norm"](self.branches["a"](self.stem(x)))
        return self.norm(self.fc(self.synchronised(x).mean((2, 3))))


def norms_of(net):
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_batchnorm_is_learned_in_any_module_and_otherwise_has_no_parameters():
    learned = mpt.convert(Nested(), mpt.Biprop(prune=0.5), learn_batchnorm=True).train()
    assert len(norms_of(learned)) == 4
    F.cross_entropy(learned(torch.randn(8, 3, 6, 6)), torch.arange(8) % 2).backward()
    assert all(m.weight.grad.any() and m.bias.grad.any() for m in norms_of(learned)[:3])
    plain = mpt.convert(Nested(), mpt.Biprop(prune=0.5))
    assert not any(list(m.parameters()) for m in norms_of(plain))


@pytest.mark.parametrize("kind", [mpt.Biprop, mpt.EdgePopup])
def test_a_random_mask_stays_as_it_was_drawn_while_batchnorm_is_trained(kind):
    backbone = backbones.cifar_resnet20(width=0.25)
    net = mpt.convert(backbone, kind(prune=0.5, learn_scores=False), learn_batchnorm=True).train()
    learned = [p for p in net.parameters() if p.requires_grad]
    assert {id(p) for p in learned} == {id(p) for m in norms_of(net) for p in m.parameters()}
    searched = mpt.convert(backbone, kind(prune=0.5), learn_batchnorm=True)
    before = {name: layer.mask() for name, layer in ticket_layers(searched).items()}
    optim = torch.optim.SGD(learned, 0.1, weight_decay=0.1)
    F.cross_entropy(net(torch.randn(4, 3, 8, 8)), torch.arange(4)).backward()
    assert all(p.grad.any() for p in learned)
    optim.step()
    assert all(torch.equal(layer.mask(), before[name]) for name, layer in ticket_layers(net).items())


def test_a_random_mask_with_nothing_else_to_learn_is_refused():
    with pytest.raises(ValueError, match="learn_scores=false leaves nothing to be learned: say learn_batchnorm=true"):
        mpt.convert(backbones.cifar_resnet20(width=0.25), mpt.Biprop(prune=0.5, learn_scores=False))
