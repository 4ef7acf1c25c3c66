from __future__ import annotations

import pytest
import torch
from torch import nn

import mpt
from mpt import backbones
from mpt.theory.certificate import bound_outputs, certified_labels
from mpt.theory.construct import build_ticket, digest_of
from mpt.theory.effective import effective_layers
from mpt.ticket.controls import CONTROLS, control
from tests.theory.networks import Cnn, cnn, images, mlp, seeded


@pytest.mark.parametrize("form", ["binary", "doubling", "real"])
def test_a_constructed_ticket_is_read_back_with_the_same_logits(form, tmp_path):
    net = mlp()
    made = build_ticket(net, accuracy=0.05, form=form)
    made.ticket.save(tmp_path / "built.safetensors")
    ticket = mpt.Ticket.load(tmp_path / "built.safetensors")
    x = images(net)
    assert ticket.digest == made.ticket.digest
    assert torch.equal(ticket.network()(x), made.network()(x))
    assert ticket.header["constructed"]["target"] == digest_of(net)
    assert ticket.header["constructed"]["certificate"]["output_error"] == made.certificate.output_error


def test_three_lines_for_a_network_of_your_own():
    target = seeded(lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)))
    net, certificate = mpt.construct(target, accuracy=0.05)
    x = torch.rand(100, 6)
    assert (net(x) - target(x)).abs().max() <= certificate.output_error
    assert mpt.Ticket.from_network(net).num_kept == sum(int(layer.mask().sum()) for layer in layers_of(net))


def test_three_lines_for_a_small_cnn_of_your_own():
    target = cnn()
    net, certificate = mpt.construct(target, accuracy=0.05, form="real", keep="closest")
    x = images(target)
    assert (net(x) - target(x)).abs().max() <= certificate.output_error + 1e-5
    assert certificate.weight_error <= 0.05


def layers_of(net):
    from mpt.search.layers import ticket_layers

    return ticket_layers(net).values()


def test_the_network_s_own_ticket_is_the_constructed_one():
    made = build_ticket(mlp(), accuracy=0.05)
    again = mpt.Ticket.from_network(made.network())
    assert {name: tensor.tolist() for name, tensor in again.tensors.items()} == {
        name: tensor.tolist() for name, tensor in made.ticket.tensors.items()
    }
    assert again.header["signs"] == "seed"


def test_a_file_of_your_own_network_takes_the_expanded_backbone(tmp_path):
    target = cnn()
    made = build_ticket(target, accuracy=0.05)
    made.ticket.save(tmp_path / "built.safetensors")
    ticket = mpt.Ticket.load(tmp_path / "built.safetensors")
    with pytest.raises(ValueError, match="backbone="):
        ticket.network()
    widths = {layer.name.removesuffix(".0"): layer.shape[0] for layer in ticket.layers if layer.name.endswith(".0")}
    backbone = backbones.expanded(of=target, hidden=widths, folded=made.target.folded)
    x = images(target)
    assert torch.equal(ticket.network(backbone)(x), made.network()(x))


def test_controls_and_the_engine_take_a_constructed_ticket():
    net = mlp()
    ticket = build_ticket(net, accuracy=0.01).ticket
    x = images(net)
    assert torch.allclose(mpt.compile(ticket)(x), ticket.network()(x), atol=1e-4)
    for name in CONTROLS:
        drawn = control(ticket, name, seed=1)
        assert drawn.num_kept == ticket.num_kept
        assert (drawn.network()(x) - net(x)).abs().max() > 4 * (ticket.network()(x) - net(x)).abs().max()


def test_the_target_stays_as_it_is():
    net = cnn()
    before = digest_of(net)
    mpt.construct(net, accuracy=0.05)
    assert digest_of(net) == before
    assert not net.training
    assert next(net.parameters()).requires_grad


@pytest.mark.slow
def test_a_forward_that_cannot_be_followed_is_built_for_both_signs_without_bounds():
    class Choosing(Cnn):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    target = seeded(Choosing)
    net, certificate = mpt.construct(target, accuracy=0.02, form="real", keep="closest")
    x = images(target)
    assert certificate.output_error is None
    assert certificate.weight_error <= 0.02
    assert (net(x) - target(x)).abs().max() < 0.5


def test_real_numbers_grow_until_every_weight_is_within_the_accuracy():
    made = build_ticket(mlp(hidden=(4,)), accuracy=1e-6, form="real")
    assert made.certificate.weight_error <= 1e-6


@pytest.mark.slow
def test_every_layer_of_a_residual_network_is_replaced():
    target = seeded(lambda: backbones.cifar_resnet20(width=0.5))
    made = build_ticket(target, accuracy=0.02, form="real", example=torch.zeros(1, 3, 16, 16))
    assert {layer.name.rpartition(".")[0] for layer in made.ticket.layers} == made.target.layers.keys()
    assert len(made.target.folded) == len(made.target.layers) - 1
    assert made.certificate.weight_error <= 0.02
    x = torch.rand(8, 3, 16, 16)
    seen = (mpt.to_dense(made.network()).double()(x.double()) - made.target.net(x.double())).abs().max()
    assert 0 < seen <= made.certificate.output_error


def trained(net, *, epochs, lr):
    """``net`` trained on digits with pixels in [0, 1]; test images and labels."""
    digits = mpt.data.load("digits")
    x, y = digits.train.pixels.float() / 255, digits.train.labels
    optimizer = torch.optim.Adam(net.train().parameters(), lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    net.eval()
    return digits.test.pixels.float() / 255, digits.test.labels


@pytest.mark.slow
def test_trained_digits_keep_their_accuracy_and_their_labels_are_certified():
    target = mlp(hidden=(32,), side=8)
    x, y = trained(target, epochs=40, lr=0.003)
    goal = (target(x).argmax(1) == y).float().mean()
    inside = torch.rand(10_000, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for form, keep, accuracy, certified in (
        ("binary", "fewest", 0.01, 0.9),
        ("doubling", "fewest", 0.05, 0.7),
        ("doubling", "fewest", 0.01, 0.9),
        ("real", "fewest", 0.01, 0.9),
        ("real", "closest", 0.01, 0.99),
    ):
        made = build_ticket(target, accuracy=accuracy, form=form, keep=keep)
        net = made.network()
        state = bound_outputs(made.target, effective_layers(made.target, made.ticket), x)
        with torch.no_grad():
            acc = (net(x).argmax(1) == y).float().mean()
            seen = max(float((net(z) - target(z)).abs().max()) for z in (x, inside))
        assert abs(acc - goal) <= 0.02 if accuracy == 0.05 else abs(acc - goal) <= 0.0085  # 3 of 359 images
        assert seen <= made.certificate.output_error + 1e-4
        assert certified_labels(state).double().mean() >= certified
        if keep == "closest":
            assert made.certificate.output_error <= 2e-3


@pytest.mark.slow
def test_the_binary_form_of_digits_keeps_its_counts_and_its_accuracy():
    target = mlp(hidden=(32,), side=8)
    x, y = trained(target, epochs=20, lr=0.001)
    made = build_ticket(target, accuracy=0.01)
    outer = [layer for layer in made.ticket.layers if layer.name.endswith(".2")]
    counts = sum(int((weight.detach().abs() / 0.02).round().sum()) for weight in target.parameters())
    assert sum(layer.kept for layer in outer) == pytest.approx(counts, abs=3)  # weights at the middle of two multiples
    assert counts <= 29_000
    assert made.ticket.num_weights <= 1_400_000
    assert made.certificate.weight_error <= 0.01
    fitted = build_ticket(target, accuracy=0.01, fit=x[::2])
    assert fitted.certificate.weight_error <= 0.01
    with torch.no_grad():
        goal, plain, best = (net(x) for net in (target, made.network(), fitted.network()))
    for logits in (plain, best):
        assert abs(float(((logits.argmax(1) == y).double() - (goal.argmax(1) == y).double()).mean())) <= 0.005
    assert (best - goal)[1::2].square().mean() < 0.5 * (plain - goal)[1::2].square().mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "keep", "accuracy"),
    [("binary", "fewest", 0.02), ("real", "fewest", 0.01), ("real", "closest", 0.01)],
)
def test_no_error_of_a_trained_cnn_exceeds_its_certificate(form, keep, accuracy):
    target = seeded(
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)),
        )
    )
    x, y = trained(target, epochs=15, lr=0.003)
    inside = torch.rand(10_000, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    made = build_ticket(target, accuracy=accuracy, form=form, keep=keep, example=x[:1])
    net = made.network()
    state = bound_outputs(made.target, effective_layers(made.target, made.ticket), x)
    with torch.no_grad():
        assert (target(x).argmax(1) == y).double().mean() > 0.95
        assert ((net(x) - target(x)).abs() <= state.error + 1e-4).all()
        assert max(float((net(z) - target(z)).abs().max()) for z in (x, inside)) <= made.certificate.output_error + 1e-4
    assert made.certificate.weight_error <= accuracy
    if keep == "closest":
        assert certified_labels(state).double().mean() >= 0.99


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"accuracy": 0}, "accuracy is the largest error of a weight"),
        ({"accuracy": 9.0}, "below the largest weight of each layer"),
        ({"accuracy": 0.05, "delta": 1.5}, "delta must be"),
        ({"accuracy": 0.05, "form": "sign"}, "form must be one of"),
        ({"accuracy": 0.05, "keep": "all"}, "keep must be one of"),
        ({"accuracy": 0.05, "keep": "closest"}, "give form=real, or leave keep=closest out"),
        ({"accuracy": "0.05"}, "accuracy must be a number, got '0.05'"),
        ({"accuracy": 0.05, "delta": None}, "delta must be a number, got None"),
        ({"accuracy": 0.05, "inputs": 1.0}, "inputs must be two"),
        ({"accuracy": 0.05, "inputs": ("a", 1.0)}, "one for each channel, got 'a'"),
        ({"accuracy": 0.05, "example": [1.0]}, "example must be a tensor"),
        ({"accuracy": 0.05, "example": torch.zeros(2, 7)}, r"takes no batch of inputs of shape \(2, 7\)"),
        pytest.param({"accuracy": 1e-9}, "take form=real or form=doubling, which need fewer", marks=pytest.mark.slow),
        ({"accuracy": 0.05, "seed": -1}, "seed must be"),
        ({"accuracy": 0.05, "inputs": (1.0, 0.0)}, "low 1 is above high 0"),
        ({"accuracy": 0.05, "inputs": ([0.0, 0.0], 1.0)}, "one for each of 1 channels"),
        ({"accuracy": 1e-15, "form": "real"}, "is not reached with 40 numbers"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        mpt.construct(mlp(hidden=(2,), side=1), **arguments)
    assert "\n" not in str(caught.value)


def test_an_input_that_cannot_be_guessed_is_asked_for():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(7, 3)

        def forward(self, x):
            return self.a(x.view(x.size(0), 7, 5).mean(2))

    with pytest.raises(ValueError, match="give example="):
        mpt.construct(Odd(), accuracy=0.05)
    net, _ = mpt.construct(Odd(), accuracy=0.05, example=torch.zeros(2, 35))
    assert net(torch.zeros(2, 35)).shape == (2, 3)


def test_a_layer_that_is_never_called_is_refused():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.spare = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.a(x)

    with pytest.raises(ValueError, match="never calls layer spare"):
        mpt.construct(Spare(), accuracy=0.05)


@pytest.mark.slow
def test_every_layer_of_torchvision_s_resnet18_is_replaced():
    import torchvision

    target = seeded(lambda: torchvision.models.resnet18(num_classes=10))
    made = build_ticket(target, accuracy=0.04, example=torch.zeros(1, 3, 32, 32))
    assert {layer.name.rpartition(".")[0] for layer in made.ticket.layers} == made.target.layers.keys()
    assert len(made.target.layers) == 21
    assert made.certificate.weight_error <= 0.04
