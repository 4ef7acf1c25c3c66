from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mpt
from mpt.search import mask as masks
from mpt.search.fast import loops
from mpt.search.layers import ticket_layers
from tests import reference
from tests.own_methods import PerChannel

LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (3, 4, 17)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 5), padding=1, groups=2), (3, 4, 9, 9)),
    "conv2d_reflect": (lambda: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), (3, 4, 9, 9)),
    "conv2d_circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, dilation=2, padding_mode="circular"), (3, 4, 9, 9)),
    "conv2d_same": (lambda: nn.Conv2d(4, 6, (3, 5), padding="same"), (3, 4, 9, 9)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), (3, 6, 9, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 3, stride=2), (2, 2, 7, 7, 7)),
    "transpose": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (3, 4, 5, 5)),
    "transpose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, dilation=2, groups=2), (3, 4, 5)),
    "transpose3d": (lambda: nn.ConvTranspose3d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 2, 4, 4, 4)),
    "linear": (lambda: nn.Linear(5, 7), (3, 4, 5)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_ticket_layer_computes_what_the_plain_layer_does_with_the_ticket_weight(kind, bias):
    make, shape = LAYERS[kind]
    plain, x = make(), torch.randn(shape)
    net = mpt.convert(plain, mpt.Biprop(prune=0.5, bias=bias), seed=0, example=x)
    mask = reference.mask(net.scores.detach().numpy(), 0.5)
    with torch.no_grad():
        plain.weight.copy_(torch.from_numpy(reference.ticket_weight(net.weight.detach().numpy(), mask)))
        if not bias:
            plain.bias = None
    torch.testing.assert_close(net(x), plain(x), rtol=1e-5, atol=1e-6)


class Operations(TorchDispatchMode):
    """Records the names of the operations that torch runs inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_a_strided_batch_is_one_product_in_the_ticket_network_and_in_the_dense_one(bias, mode):
    x = torch.randn(3, 8, 5).transpose(1, 2)  # kernels of one and of several products round differently
    net = mpt.convert(nn.Linear(8, 4), mpt.Biprop(prune=0.5, bias=bias), seed=0, example=x).eval()
    ticket = mpt.Ticket.from_network(net).network(nn.Linear(8, 4))
    for each in (net, ticket, mpt.to_dense(net), mpt.to_dense(ticket)):
        with mode(), Operations() as operations:
            y = each(x)
        assert "mm" in operations.names
        assert "bmm" not in operations.names
        assert y.shape == (3, 5, 4)
        torch.testing.assert_close(y, net(x.contiguous()))


@pytest.mark.parametrize(("kind", "dim"), [*((kind, 0) for kind in LAYERS), ("transpose", 1)])
def test_a_ticket_layer_computes_with_one_gain_per_channel(kind, dim):
    make, shape = LAYERS[kind]
    plain, x = make(), torch.randn(shape)
    net = mpt.convert(plain, PerChannel(prune=0.5, dim=dim), seed=0, example=x)
    weight, mask = net.weight.detach().numpy(), reference.mask(net.scores.detach().numpy(), 0.5)
    gains = reference.channel_gains(weight, mask, dim=dim)
    assert net.gain().shape == gains.shape
    with torch.no_grad():
        plain.weight.copy_(torch.from_numpy(reference.ticket_weight(weight, mask, gains)))
        plain.bias = None
    torch.testing.assert_close(net(x), plain(x), rtol=1e-5, atol=1e-6)
    dense = mpt.to_dense(net.eval())
    with mpt.frozen(net):
        assert torch.equal(net(x), dense(x))
        assert net.gain() is net.gain()


def test_layers_with_one_gain_per_channel_select_together_and_train():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    method = PerChannel(prune=0.5, selection="global", ramp=0)
    net = mpt.convert(backbone, method, seed=0, example=torch.ones(1, 3, 6, 6))
    optim = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    x, y = torch.randn(20, 3, 6, 6), torch.arange(20) % 5
    losses = []
    for _ in range(30):
        optim.zero_grad()
        loss = nn.functional.cross_entropy(net.train()(x), y)
        loss.backward()
        optim.step()
        losses.append(loss.item())
        assert sum(int(layer.mask().sum()) for layer in ticket_layers(net).values()) == 214
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(mpt.to_dense(net.eval())(x), net(x))


def test_magnitudes_are_one_per_gain_or_none_at_all(mlp):
    for method in (mpt.Biprop(prune=0.5), mpt.EdgePopup(prune=0.5), PerChannel(prune=0.5)):
        for layer in ticket_layers(mpt.convert(mlp, method, seed=0)).values():
            assert torch.equal(layer.ticket().magnitudes(), layer.gain())
    real = mpt.convert(mlp, mpt.EdgePopup(prune=0.5, init="kaiming_normal"), seed=0)
    assert real[0].ticket().magnitudes() is None
    net = mpt.convert(mlp, PerChannel(prune=0.5), seed=0)
    net[0].scores.data[3] = 0.0  # prunes the whole channel
    assert net[0].gain().flatten()[3] == net[0].ticket().magnitudes().flatten()[3] == 0
    assert torch.isfinite(net(torch.randn(2, 6))).all()


OPTIMIZERS = {
    "sgd_foreach": lambda p: torch.optim.SGD(p, 0.5, momentum=0.9, foreach=True),
    "sgd_fused": lambda p: torch.optim.SGD(p, 0.5, momentum=0.9, fused=True),
    "adam_foreach": lambda p: torch.optim.Adam(p, 0.5, foreach=True),
    "adam_fused": lambda p: torch.optim.Adam(p, 0.5, fused=True),
}


def assert_forward_has_current_masks(net, x):
    """A training forward of ``net`` gives what a fresh copy with the masks of the reference gives."""
    expected = mpt.to_dense(copy.deepcopy(net))
    for name, layer in ticket_layers(net).items():
        mask = reference.mask(layer.scores.detach().numpy(), net.conversion.method.prune)
        weight = torch.from_numpy(reference.ticket_weight(layer.weight.detach().numpy(), mask)).float()
        expected.get_submodule(name).weight.data.copy_(weight)
    torch.testing.assert_close(net(x), expected(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_sees_the_current_mask_after_every_optimizer_step(mlp, optimizer):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0).train()
    optim = OPTIMIZERS[optimizer]([p for p in net.parameters() if p.requires_grad])
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    changed = 0
    for _ in range(5):
        before = [layer.mask() for layer in ticket_layers(net).values()]
        nn.functional.cross_entropy(net(x), y).backward()
        optim.step()
        optim.zero_grad()
        assert_forward_has_current_masks(net, x)
        changed += masks.flips(before, [layer.mask() for layer in ticket_layers(net).values()]) > 0
    assert changed >= 3


def test_training_sees_the_current_mask_after_writes_that_raise_no_version(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0).train()
    other = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=1)
    x = torch.randn(16, 6)
    assert_forward_has_current_masks(net, x)
    version = net[0].scores._version
    net[0].scores.data.mul_(torch.randn_like(net[0].scores))
    assert net[0].scores._version == version
    assert_forward_has_current_masks(net, x)
    net[0].scores.data = torch.randn_like(net[0].scores)
    assert_forward_has_current_masks(net, x)
    net.load_state_dict(other.state_dict())
    assert_forward_has_current_masks(net, x)
    net.load_state_dict(mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=2).state_dict(), assign=True)
    assert_forward_has_current_masks(net, x)


def test_training_never_changes_a_bit_of_the_frozen_weights(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0)
    before = {name: layer.weight.clone() for name, layer in ticket_layers(net).items()}
    optim = torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.1)
    for _ in range(3):
        net(torch.randn(8, 6)).square().sum().backward()
        optim.step()
    for name, layer in ticket_layers(net).items():
        assert layer.weight.grad is None
        assert layer.scores.grad is not None
        assert torch.equal(layer.weight.view(torch.int32), before[name].view(torch.int32))


def count_selections(monkeypatch):
    calls = []
    select = masks.select
    monkeypatch.setattr(masks, "select", lambda scores, **options: calls.append(1) or select(scores, **options))
    return calls


def test_inside_frozen_each_mask_is_selected_once(mlp, monkeypatch):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0).eval()
    calls = count_selections(monkeypatch)
    with torch.inference_mode(), mpt.frozen(net):
        for _ in range(5):
            net(torch.randn(2, 6))
            with mpt.frozen(net):
                net[0].mask()
        net(torch.randn(2, 6))
    assert len(calls) == 2
    net(torch.randn(2, 6))
    assert len(calls) == 4


def test_inside_frozen_training_still_sees_the_current_mask(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0).train()
    with mpt.frozen(net):
        net[0].scores.data.neg_().add_(0.2)
        assert_forward_has_current_masks(net, torch.randn(4, 6))


def test_frozen_ends_with_an_error_inside(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0).eval()
    with pytest.raises(RuntimeError), mpt.frozen(net):
        net(torch.randn(2, 5))
    assert net[0].frozen_ticket is None


def test_a_mask_from_inference_mode_can_be_used_for_gradients(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0).eval()
    x = torch.randn(2, 6, requires_grad=True)
    with torch.inference_mode():
        context = mpt.frozen(net)
        context.__enter__()
    net(x).sum().backward()
    context.__exit__(None, None, None)
    assert x.grad.abs().sum() > 0


def test_autocast_to_bf16_computes_with_one_magnitude(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(torch.randn(4, 6))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert net[0].scores.grad.dtype == torch.float32
    assert len(net[0].ticket_weight().bfloat16().abs().unique()) == 2


COMPILED = {
    "biprop": ({}, {}),
    "gain of signed scores": ({"score_grad": "gain", "score_abs": False}, {}),
    "power": ({"power": 2.0}, {}),
    "binary activations": ({}, {"binary_activations": True}),
    "global": ({"selection": "global"}, {}),
    "threshold": ({"selection": "threshold", "threshold": 0.01}, {}),
    "calibrated": ({"selection": "calibrated", "refresh": 2}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("choice", COMPILED)
def test_a_compiled_network_trains_to_the_same_bits(choice):
    options, others = COMPILED[choice]
    first, x, labels = nn.Conv2d(3, 8, 3, padding=1), torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    second, large = nn.Conv2d(8, 16, 3, padding=1), nn.Linear(1024, 64)  # enough weights for the compiled loops
    layers = (first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.Flatten(), large, nn.ReLU(), nn.Linear(64, 10))
    eager = mpt.convert(nn.Sequential(*layers), mpt.Biprop(prune=0.5, **options), seed=0, example=x, **others)
    assert large.weight.numel() >= loops.LARGE
    compiled, losses, outputs = copy.deepcopy(eager), [], []
    torch.compiler.reset()
    compiled.compile(backend="aot_eager", fullgraph=choice != "calibrated")  # which decides on the host in each step
    for net in (eager, compiled):
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.05, momentum=0.9)
        for _ in range(4):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net.train()(x), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad(), mpt.frozen(net.eval()):
            outputs.append(net(x))
    assert losses[:4] == losses[4:]
    assert len(set(losses[:4])) == 4
    assert torch.equal(*outputs)
    for one, other in zip(ticket_layers(eager).values(), ticket_layers(compiled).values(), strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.mask(), other.mask())
        assert 0 < one.mask().sum() < one.mask().numel()
