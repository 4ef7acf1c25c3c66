from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import mpt
from mpt import data
from mpt.experiment.build import build_backbone, build_method, check_bf16_strides, check_side, convert
from mpt.experiment.train import search
from mpt.run.name import run_name
from mpt.run.settings import Choice
from mpt.search.weight import signs
from tests.console import SMALL, command, compose, read_result


@dataclass(frozen=True, kw_only=True)
class RootMeanSquare(mpt.Biprop):
    """The method of docs/own-method.md: it selects on ``|s|^exponent``, and its gain is the root mean square weight."""

    exponent: float = 1.0

    def importance(self, scores):
        return super().importance(scores) ** self.exponent

    def gain(self, weight, mask):
        return weight.square().mean().sqrt()

    def ticket_weight(self, weight, mask, gain):
        return signs(weight, magnitude=gain) * mask


@pytest.mark.slow
def test_a_method_is_added_by_one_class_and_one_yaml(tmp_path):
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "rms.yaml").write_text(
        "defaults: [biprop, _self_]\nname: rms\ntarget: tests.experiment.test_build.RootMeanSquare\nexponent: 2.0\n"
    )
    options = ["method=rms", "method.selection=global", "method.ramp=0", "prune=0.7", "hydra.run.dir=run"]
    command("train", "--config-dir", "mine", *SMALL, *options, cwd=tmp_path)
    result = read_result(tmp_path / "run")
    assert (result["method"], result["test_acc"] > 0.3) == ("rms", True)
    ticket = mpt.Ticket.load(tmp_path / "run" / "ticket.safetensors")
    method = ticket.header["method"]
    assert (method["name"], method["exponent"], method["selection"]) == ("RootMeanSquare", 2.0, "global")
    net = mpt.convert(mpt.backbones.conv2(width=0.125, num_classes=4, image_size=8), RootMeanSquare(prune=0.7), seed=0)
    for name in ("features.0", "classifier.0"):
        gain = net.get_submodule(name).weight.square().mean().sqrt()
        assert set(ticket.weight(name).unique().tolist()) == {-gain.item(), 0.0, gain.item()}
    shown = command("eval", "run/ticket.safetensors", cwd=tmp_path)
    assert f"accuracy  {100 * result['test_acc']:.2f} %" in shown.stdout
    wrong = command(
        "train", "--config-dir", "mine", *SMALL, "method=rms", "+method.exponents=2", cwd=tmp_path, check=False
    )
    assert wrong.returncode == 1
    assert "there is no option method.exponents: did you mean method.exponent?" in wrong.stderr


@pytest.mark.parametrize(
    ("layer", "width", "name"),
    [
        (nn.Conv2d(16, 16, 3, stride=2, padding=1), 1, "1 a wrong gradient on the CPU, because its stride of 2"),
        (nn.Conv2d(16, 16, 3, stride=2, padding=1), 2, None),
        (nn.Conv2d(16, 16, 3, stride=3, padding=1, groups=16), 2, "1 a wrong gradient on the CPU"),
        (nn.Conv2d(16, 16, 3, padding=1), 1, None),
        (nn.Conv2d(16, 16, 1, stride=2), 1, None),
        (nn.Sequential(nn.Unflatten(1, (16, 1)), nn.Conv3d(16, 8, 3, stride=2, padding=1)), 1, "1.1 a wrong gradient"),
        (nn.Sequential(nn.Flatten(2), nn.Conv1d(16, 16, 3, stride=2, padding=1)), 1, "1.1 a wrong gradient"),
        (nn.ConvTranspose2d(16, 16, 3, stride=2, padding=1), 1, "exceeds the width of its output, 1"),
        (nn.ConvTranspose2d(16, 16, 3, stride=2, padding=1), 2, None),
    ],
)
def test_a_stride_above_the_width_of_an_input_is_refused_in_bf16_on_the_cpu(layer, width, name):
    net, data = nn.Sequential(nn.Conv2d(3, 16, 1), layer), SimpleNamespace(channels=3, image_size=width)
    if name is None:
        check_bf16_strides(net, data)
    else:
        with pytest.raises(ValueError, match=name):
            check_bf16_strides(net, data)
        check_bf16_strides(net.requires_grad_(False), data)  # no gradient, no fault
    assert all(module.training and not module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("stride", [1, 2])
def test_torch_gives_the_right_bf16_gradients_where_a_stride_is_not_refused(stride):
    """Of an input as wide as the stride, in memory that large numbers were in before, against float64."""
    layer = nn.Conv2d(48, 48, 3, stride=stride, padding=1, groups=48, bias=False, dtype=torch.bfloat16)
    layer.to(memory_format=torch.channels_last)
    images, exact = torch.randn(32, 48, stride, stride, dtype=torch.bfloat16), copy.deepcopy(layer).double()
    exact(images.double()).sum().backward()
    for _ in range(20):
        used = [torch.full((n,), 3e38) for n in (1_000, 10_000, 100_000, 300_000)]
        del used
        layer.zero_grad()
        layer(images).sum().backward()
        torch.testing.assert_close(layer.weight.grad.double(), exact.weight.grad, rtol=0.02, atol=0.2)


def test_the_yaml_of_a_method_has_the_defaults_of_its_class():
    for name in ("biprop", "edge_popup", "dense"):
        settings = compose(f"method={name}")
        method = build_method(settings.method, prune=settings.prune)
        assert method == type(method)(prune=settings.prune)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (
            Choice("x", "mpt.Biprop", {"score_grd": "sign"}),
            r"no option method\.score_grd: did you mean method\.score_grad\?",
        ),
        (Choice("x", "mpt.Nope"), "method.target=mpt.Nope cannot be imported"),
        (Choice("x", "os.getcwd"), "must name a mpt.Method"),
    ],
)
def test_a_method_that_does_not_fit_its_class_is_refused(choice, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_method(choice, prune=0.5)


def test_dense_removes_nothing_by_default_and_refuses_to_remove_any():
    settings = compose("method=dense")
    assert settings.prune == 0
    with pytest.raises(ValueError, match="dense baseline removes none"):
        build_method(compose("method=dense", "prune=0.8").method, prune=0.8)


def test_a_random_mask_comes_with_learned_batchnorm():
    settings = compose("method=random_mask", "prune=0.7")
    assert settings.learn_batchnorm
    assert build_method(settings.method, prune=0.7) == mpt.Biprop(prune=0.7, learn_scores=False)
    other = compose("method=random_mask", "method.selection=global", "protocol=paper")
    assert (other.method.arguments["selection"], other.method.arguments["scale_fan"]) == ("global", "none")
    assert other.learn_batchnorm


class Scaled(nn.Module):
    """A block with a LayerScale, and one behind a constant near zero, which no option can change."""

    def __init__(self, channels, classes, constant):
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(c, 8, 3, padding=1) for c in (channels, 8, 8))
        self.gamma = nn.Parameter(torch.full((8, 1, 1), 1e-6))
        self.head, self.constant = nn.Linear(8, classes), constant

    def forward(self, x):
        x = self.stem(x)
        x = x + self.gamma * self.first(x).relu()
        x = x + self.constant * self.second(x).relu()
        return self.head(x.mean((2, 3)))


def scaled(*, num_classes, in_channels, constant=1.0):
    return Scaled(in_channels, num_classes, constant)


SCALED = (*SMALL, "model.target=tests.experiment.test_build.scaled", "width=1", "trainer=cpu")


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["[]", "['*.gamma', gamma]", "[gamma]"])
def test_a_run_starts_scales_at_one_and_trains_what_trained_names(trained):
    if "*." in trained:
        with pytest.raises(ValueError, match=r"trained names '\*\.gamma', which is none of"):
            search(compose(*SCALED, f"trained={trained}"))
        return
    net = search(compose(*SCALED, f"trained={trained}")).net
    assert bool((net.gamma == 1).all())
    assert net.gamma.requires_grad == (trained == "[gamma]")
    assert run_name(compose(*SCALED)) != run_name(compose(*SCALED, "trained=[gamma]"))


def test_a_run_says_which_layers_will_hardly_learn(capsys):
    search(compose(*SCALED, "+model.constant=1e-7"))
    said = capsys.readouterr().err
    assert said.startswith("warning: 1 of 4 searched layers will hardly learn")
    assert "second, because what they compute hardly reaches the output" in said
    assert "dense=['second']" in said
    search(compose(*SCALED, "+model.constant=1e-7", "dense=[second]"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("width", "words"), [(3000, r"width=[\d.]+ fits"), (1e12, "lower width")])
def test_a_network_that_does_not_fit_is_refused_before_memory_is_taken(width, words):
    choice = compose("model=conv6").model
    with pytest.raises(ValueError, match=words):
        build_backbone(choice, data.load("synthetic", num_images=20), width=width, seed=0)


def test_images_whose_first_layer_does_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"a layer of conv6 on images of .* data\.image_size=\d+ fits"):
        check_side(10**6, name="conv6")


PLAIN = {"dense": [], "trained": [], "learn_batchnorm": False, "binary_activations": False, "spline_t": 1.0}


class Wrong(nn.Module):
    """A network whose forward is not right."""

    def __init__(self, forward):
        super().__init__()
        self.layer, self.wrong = nn.Linear(4, 2), forward

    def forward(self, x):
        return self.wrong(self.layer(x.flatten(1)))


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double(), "net must be built in float32 .* are of torch.float64"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2, device="meta")), "net must be built .* hold no numbers"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), "net cannot take images of 2x2 pixels .*data.image_size"),
        (Wrong(lambda x: x[:1]), "one logit for each of 2 classes: for 2 images it gave"),
        (Wrong(lambda x: x.detach()), "no gradient reaches the scores, because the network detaches its output"),
    ],
)
def test_a_network_that_does_not_suit_the_images_is_refused_with_the_cause(network, sentence):
    images = data.load("synthetic", num_images=8, num_classes=2, image_size=2, channels=1)
    with pytest.raises(ValueError, match=sentence):
        convert(network, mpt.Biprop(prune=0.5), images, seed=0, name="net", **PLAIN)


def test_an_error_in_the_forward_of_a_network_is_no_matter_of_the_size_of_images():
    images = data.load("synthetic", num_images=8, num_classes=2, image_size=2, channels=1)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        convert(Wrong(lambda x: x.nope), mpt.Biprop(prune=0.5), images, seed=0, name="net", **PLAIN)
