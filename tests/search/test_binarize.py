from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import mpt
from mpt import backbones, data
from mpt.search.activations import BinaryActivation
from mpt.search.binarize import MaxPool2d, Signs, apply_signs, binarize
from mpt.search.layers import kind_of, ticket_layers

HALF = mpt.Biprop(prune=0.5)
NETWORKS = {
    "conv2": lambda: backbones.conv2(width=0.25, image_size=8),
    "conv8": lambda: backbones.conv8(width=0.125, image_size=16),
    "vgg_small": lambda: backbones.vgg_small(width=0.0625, image_size=16, binary_activations=True),
    "cifar_resnet18": lambda: backbones.cifar_resnet18(width=0.125),
    "cifar_resnet20": lambda: backbones.cifar_resnet20(width=0.5),
    "cifar_resnet50": lambda: backbones.cifar_resnet50(width=0.0625),
    "wide_resnet18_2": lambda: backbones.wide_resnet18_2(width=0.0625),
    "wide_resnet34": lambda: backbones.wide_resnet34(width=0.0625),
    "torchvision_resnet18": lambda: backbones.torchvision(name="resnet18"),
}


def module_names(net, *kinds):
    """Class names of the modules of ``net`` that compute, in their order, of ``kinds`` only."""
    leaves = (module for module in net.modules() if not list(module.children()))
    return [type(module).__name__ for module in leaves if not kinds or isinstance(module, kinds)]


def input_values(net, images):
    """By layer, the set of distinct input values (at most three of them) of a forward in training mode."""
    seen = {}
    for name, layer in net.named_modules():
        if kind_of(layer):
            layer.register_forward_pre_hook(
                lambda _, x, name=name: seen.update({name: set(x[0].unique().tolist()[:3])})
            )
    with torch.no_grad():
        net.train()(images)
    return seen


def test_conv_networks_get_their_published_shape():
    net = mpt.convert(NETWORKS["conv2"](), HALF, binary_activations=True)
    assert [
        type(m).__name__ for m in net.features.modules() if not list(m.children()) and type(m) is not nn.Identity
    ] == [
        *("TicketConv2d", "BatchNorm2d", "BinaryActivation"),
        *("TicketConv2d", "MaxPool2d", "BatchNorm2d", "BinaryActivation"),
    ]
    assert module_names(net.classifier) == [*("TicketLinear", "BatchNorm1d", "BinaryActivation") * 2, "TicketLinear"]


def test_hidden_layers_of_the_mlp_get_batchnorm_and_sign():
    net = mpt.convert(backbones.mlp(hidden=(8, 4), image_size=4), HALF, binary_activations=True)
    assert module_names(net) == [*("TicketLinear", "BatchNorm1d", "BinaryActivation") * 2, "TicketLinear"]
    assert net.conversion.binary_inputs == ("classifier.2", "classifier.4")


def test_vgg_small_gets_its_published_shape_and_keeps_its_last_relu():
    net = mpt.convert(NETWORKS["vgg_small"](), HALF, binary_activations=True).eval()
    stage = ["TicketConv2d", "BatchNorm2d", "BinaryActivation", "TicketConv2d", "MaxPool2d", "BatchNorm2d"]
    assert module_names(net) == [*[*stage, "BinaryActivation"] * 2, *stage, "TicketLinear"]
    seen = []
    net.classifier.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach()))
    net(torch.randn(4, 3, 16, 16))
    assert float(seen[0].min()) == 0.0  # ReLU
    assert len(seen[0].unique()) > 2


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_resnets_have_a_sign_behind_every_batchnorm_of_the_branch_and_behind_the_sum(kind):
    name = {"basic": "cifar_resnet20", "bottleneck": "cifar_resnet50"}[kind]
    net = mpt.convert(NETWORKS[name](), HALF, binary_activations=True)
    plain = NETWORKS[name]()
    relus = {name for name, module in plain.named_modules() if isinstance(module, nn.ReLU)}
    assert {name for name, module in net.named_modules() if isinstance(module, BinaryActivation)} == relus
    norms = {name for name, module in plain.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)} == norms


@pytest.mark.parametrize(
    "network", [pytest.param(n, marks=pytest.mark.slow) if n.startswith("torchvision") else n for n in NETWORKS]
)
def test_every_searched_convolution_but_the_first_sees_only_signs(network):
    net = mpt.convert(NETWORKS[network](), HALF, binary_activations=True)
    side = {"conv2": 8, "conv8": 16, "vgg_small": 16}.get(network, 32)
    seen = input_values(net, torch.randn(4, 3, side, side))
    convs = [name for name, layer in ticket_layers(net).items() if kind_of(layer) is nn.Conv2d]
    assert len(seen[convs[0]]) == 3  # the image
    assert all(seen[name] <= {-1.0, 1.0} for name in convs[1:])
    table = mpt.layer_table(net)
    assert {row.name for row in table.layers if row.binary_input} == {n for n, v in seen.items() if v <= {-1.0, 1.0}}
    real = [row.name for row in table.layers if not row.binary_input]
    assert f"real inputs in spite of binary activations: {', '.join(real)}" in str(table)


@pytest.mark.slow
def test_the_image_net_stem_pools_before_its_sign():
    net = mpt.convert(NETWORKS["torchvision_resnet18"](), HALF, binary_activations=True)
    assert module_names(net.maxpool) == ["MaxPool2d", "BinaryActivation"]
    assert type(net.relu) is nn.Identity


def test_a_batchnorm_behind_the_relu_comes_before_the_sign():
    backbone = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(20, 2)),
    )
    net = mpt.convert(backbone, HALF, binary_activations=True, example=torch.zeros(2, 3, 10, 10))
    assert module_names(net[1:4]) == ["Identity", "MaxPool2d", "BatchNorm2d", "BinaryActivation"]
    assert module_names(net[5]) == ["BatchNorm2d", "BinaryActivation"]


def test_every_relu_of_the_family_becomes_a_sign_with_the_t_asked_for():
    kinds = (nn.ReLU(), nn.ReLU6(inplace=True), nn.LeakyReLU(), nn.PReLU(), nn.RReLU())
    backbone = nn.Sequential(*(m for kind in kinds for m in (nn.Linear(4, 4), kind)), nn.Linear(4, 2))
    net = mpt.convert(backbone, HALF, binary_activations=True, spline_t=0.5)
    assert [m.t for m in net.modules() if isinstance(m, BinaryActivation)] == [0.5] * 5
    assert "7.weight" in net.conversion.dropped  # of the PReLU


def test_a_shared_relu_is_replaced_wherever_it_stands():
    relu = nn.ReLU()
    backbone = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), relu, nn.Linear(4, 4), nn.LayerNorm(4), relu)
    net = mpt.convert(backbone, HALF, binary_activations=True)
    assert net[2] is net[5]
    assert type(net[2]) is BinaryActivation
    with pytest.raises(
        ValueError, match="1 is called 2 times, and with binary_activations each call needs a batch-norm"
    ):
        mpt.convert(nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu), HALF, binary_activations=True)


class Functional(nn.Module):
    """A convolution behind a ReLU that is no module."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()

    def forward(self, x):
        return self.relu(self.two(F.relu(self.one(x)))).mean((2, 3))


class FunctionalDropout(nn.Sequential):
    def forward(self, x):
        return self[2](F.dropout(self[1](self[0](x)), training=self.training))


@pytest.mark.parametrize(
    ("backbone", "sentence"),
    [
        (lambda: FunctionalDropout(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), "^2: with binary_activations"),
        (Functional, r"^two: with binary_activations every searched convolution.*itself calls relu as a function"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), "turns ReLU modules into signs, and this backbone calls none"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3)), r"this backbone has 1 \(GELU\)"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Linear(900, 3), nn.ReLU()),
            "behind linear on 3 dim",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(4, 4, 3)),
            "^3: with binary_activations every searched convolution but the first must see only -1 and",
        ),
        (lambda: torchvision.models.mobilenet_v2(width_mult=0.25), r"^features\.2\.conv\.0\.0, .* more: with binary"),
        (lambda: torchvision.models.vit_b_32(image_size=32), r"encoder_layer_0\.self_attention \(MultiheadAttention\)"),
    ],
)
def test_a_backbone_that_cannot_be_binarized_is_refused_by_name(backbone, sentence):
    with pytest.raises(ValueError, match=sentence):
        mpt.convert(backbone(), HALF, binary_activations=True, example=torch.zeros(2, 3, 32, 32)[..., :, :])


def test_a_convolution_that_sees_real_numbers_can_be_left_out_of_the_search():
    net = mpt.convert(Functional(), HALF, binary_activations=True, dense=("two",))
    assert list(ticket_layers(net)) == ["one"]


def test_a_backbone_that_already_has_signs_is_checked_and_not_rewritten():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), BinaryActivation(0.5), nn.Conv2d(4, 4, 3), nn.ReLU())
    net = mpt.convert(backbone, HALF, binary_activations=True)
    assert net.conversion.signs is None
    assert module_names(net) == ["TicketConv2d", "BinaryActivation", "TicketConv2d", "ReLU"]
    with pytest.raises(ValueError, match=r"^4: with binary_activations"):
        mpt.convert(nn.Sequential(*backbone, nn.Conv2d(4, 4, 3)), HALF, binary_activations=True)


def test_the_recorded_rewrite_can_be_repeated_on_a_plain_backbone():
    one, other = NETWORKS["wide_resnet34"](), NETWORKS["wide_resnet34"]()
    signs = binarize(one, torch.zeros(2, 3, 32, 32), t=1.0)
    apply_signs(Signs.from_dict(signs.as_dict()), other)
    assert str(one) == str(other)
    with pytest.raises(ValueError, match="another backbone: this one has no module"):
        apply_signs(signs, nn.Sequential(nn.ReLU()))


def test_the_rewrite_leaves_the_backbone_its_mode_and_its_in_place_activations_alone():
    backbone = backbones.cifar_resnet20(width=0.5).train()
    before = str(backbone)
    net = mpt.convert(backbone, HALF, binary_activations=True)
    assert str(backbone) == before
    assert all(module.training for module in net.modules())
    assert int(net.bn1.num_batches_tracked) == 0
    assert not net.conv1._forward_pre_hooks


def test_a_dense_network_can_have_binary_activations_too():
    net = mpt.convert(NETWORKS["conv2"](), mpt.Dense(), binary_activations=True)
    assert "features.2" in net.conversion.binary_inputs
    net.train()(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


SEARCHES = {
    "vgg_small": lambda binary: backbones.vgg_small(
        width=0.125, in_channels=1, image_size=8, binary_activations=binary
    ),
    "cifar_resnet18": lambda binary: backbones.cifar_resnet18(width=0.5 if binary else 0.125, in_channels=1),
    "cifar_resnet20": lambda binary: backbones.cifar_resnet20(in_channels=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("learn_batchnorm", [False, True], ids=["", "bn"])
@pytest.mark.parametrize("binary", [False, True], ids=["1_32", "1_1"])
@pytest.mark.parametrize("network", SEARCHES)
def test_200_steps_lower_the_loss_by_a_tenth_and_reach_every_score(network, binary, learn_batchnorm):
    digits = data.load("digits")
    net = mpt.convert(
        SEARCHES[network](binary),
        mpt.Biprop(prune=0.5),
        binary_activations=binary,
        learn_batchnorm=learn_batchnorm,
        example=torch.zeros(2, 1, 8, 8),
    ).train()
    optim = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 0.01)
    losses, accs = [], []
    reached = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in net.named_parameters() if p.requires_grad}
    while len(losses) < 200:
        for batch in data.Loader(digits.train, data=digits, batch=64, train=True, seed=len(losses)):
            logits = net(batch.images)
            loss = F.cross_entropy(logits, batch.labels)
            optim.zero_grad()
            loss.backward()
            optim.step()
            losses.append(loss.item())
            accs.append(float((logits.argmax(1) == batch.labels).float().mean()))
            for name, parameter in net.named_parameters():
                if name in reached:
                    reached[name] |= parameter.grad != 0
    first, last = sum(losses[:10]) / 10, sum(losses[190:200]) / 10
    assert last < 0.9 * first
    assert sum(accs[190:200]) / 10 > 0.2
    assert {f"{name}.scores" for name in ticket_layers(net)} <= set(reached)
    assert all(bool(parameter.any()) for parameter in reached.values())
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all((m.weight is not None) == learn_batchnorm for m in norms)


def test_only_a_plain_max_pool_in_front_of_a_sign_is_replaced():
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(2)),
        *(nn.Conv2d(5, 6, 1), nn.ReLU()),
    )
    converted = mpt.convert(net, mpt.Biprop(prune=0.5), binary_activations=True, example=torch.zeros(2, 3, 12, 12))
    assert type(converted[2][0]) is MaxPool2d
    assert type(converted[5][0]) is nn.AdaptiveMaxPool2d
    assert type(net[2]) is nn.MaxPool2d
