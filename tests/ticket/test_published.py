from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mpt import backbones
from mpt.search.layers import ticket_layers
from mpt.search.mask import num_kept
from mpt.ticket.published import gain_divisor, import_published, kept_of, read_published
from mpt.ticket.ticket import Ticket

CONV4 = [(64, 3), (64, 64), (128, 64), (128, 128)]


class Theirs:
    """A network of the authors' code as their file lists it: keys, shapes and, slow and obvious, their forward."""

    def __init__(self, *, width=1.0, affine=False, seed=0):
        self.generator, self.width, self.affine = torch.Generator().manual_seed(seed), width, affine
        self.state: dict[str, torch.Tensor] = {}

    def channels(self, c):
        return int(self.width * c)

    def layer(self, name, out, inputs, kernel):
        shape = (out, inputs, kernel, kernel)
        self.state[f"{name}.weight"] = torch.randn(shape, generator=self.generator) * math.sqrt(
            2 / (inputs * kernel**2)
        )
        self.state[f"{name}.scores"] = torch.randn(shape, generator=self.generator)

    def norm(self, name, c):
        if self.affine:
            self.state[f"{name}.weight"] = torch.rand(c, generator=self.generator) + 0.5
            self.state[f"{name}.bias"] = torch.randn(c, generator=self.generator)
        self.state[f"{name}.running_mean"] = torch.randn(c, generator=self.generator)
        self.state[f"{name}.running_var"] = torch.rand(c, generator=self.generator) + 0.5
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(17)

    def apply_norm(self, name, x):
        mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, self.state.get(f"{name}.weight"), self.state.get(f"{name}.bias"))

    def ticket_weights(self, keep, *, selection="layerwise"):
        """Of every layer, as their count has it: by sorting."""
        names = [key.removesuffix(".scores") for key in self.state if key.endswith(".scores")]
        importance = {name: self.state[f"{name}.scores"].abs().numpy().ravel() for name in names}
        everything = np.sort(np.concatenate(list(importance.values())))
        found = {}
        for name in names:
            values, w = importance[name], self.state[f"{name}.weight"].numpy()
            mask = np.zeros(values.size, dtype=bool)
            if selection == "layerwise":
                mask[np.argsort(values, kind="stable")[int((1 - keep) * values.size) :]] = True
                ones = int(keep * values.size)
            else:
                mask = values > everything[int((1 - keep) * everything.size) - 1]
                ones = mask.sum()
            mask = mask.reshape(w.shape)
            gain = np.abs(w.astype(np.float64) * mask).sum() / ones
            found[name] = torch.from_numpy((gain * np.sign(w) * mask).astype(np.float32))
        return found

    def save(self, path, *, prefix="module.", **told):
        state = {prefix + key: value for key, value in self.state.items()}
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9).state_dict()
        content = {"epoch": 250, "arch": "theirs", "state_dict": state, "best_acc1": torch.tensor(88.0)}
        torch.save({**content, "optimizer": optimizer, **told}, path)


class Conv4(Theirs):
    """``convs`` of 3x3 convolutions and ``linear`` of 1x1 convolutions, ReLUs and pools between, no batch-norm."""

    def __init__(self, **options):
        super().__init__(**options)
        c = self.channels
        for at, (out, inputs) in zip((0, 2, 5, 7), CONV4, strict=True):
            self.layer(f"convs.{at}", c(out), inputs if inputs == 3 else c(inputs), 3)
        for at, (out, inputs) in zip((0, 2, 4), ((c(256), c(128) * 64), (c(256), c(256)), (10, c(256))), strict=True):
            self.layer(f"linear.{at}", out, inputs, 1)

    def __call__(self, x, b):
        for at in (0, 2, 5, 7):
            x = F.relu(F.conv2d(x, b[f"convs.{at}"], padding=1))
            x = F.max_pool2d(x, 2) if at in (2, 7) else x
        x = x.reshape(len(x), -1, 1, 1)
        for at in (0, 2, 4):
            x = F.conv2d(x, b[f"linear.{at}"])
            x = F.relu(x) if at < 4 else x
        return x.flatten(1)


class VGGSmall(Theirs):
    """The published class: only two ReLUs, batch-norm behind each pool."""

    def __init__(self, **options):
        super().__init__(**options)
        before = 3
        for stage, (first, second, norm) in enumerate(((0, 2, 4), (5, 6, 8), (9, 10, 12))):
            c = self.channels(128 * 2**stage)
            self.layer(f"convs.{first}", c, before, 3)
            self.layer(f"convs.{second}", c, c, 3)
            self.norm(f"convs.{norm}", c)
            before = c
        self.layer("linear.0", 10, before * 16, 1)

    def __call__(self, x, b):
        for first, second, norm in ((0, 2, 4), (5, 6, 8), (9, 10, 12)):
            x = F.conv2d(x, b[f"convs.{first}"], padding=1)
            x = F.relu(x) if first == 0 else x
            x = self.apply_norm(f"convs.{norm}", F.max_pool2d(F.conv2d(x, b[f"convs.{second}"], padding=1), 2))
        return F.conv2d(F.relu(x).reshape(len(x), -1, 1, 1), b["linear.0"]).flatten(1)


class ResNet18(Theirs):
    """``conv1 bn1``, blocks ``layer1.0.conv1 bn1 conv2 bn2 shortcut.0 shortcut.1``, ``fc``."""

    def __init__(self, **options):
        super().__init__(**options)
        before = self.channels(64)
        self.layer("conv1", before, 3, 3)
        self.norm("bn1", before)
        for stage in range(4):
            c = self.channels(64 * 2**stage)
            for i in range(2):
                block = f"layer{stage + 1}.{i}"
                for j, inputs in ((1, before), (2, c)):
                    self.layer(f"{block}.conv{j}", c, inputs, 3)
                    self.norm(f"{block}.bn{j}", c)
                if before != c:
                    self.layer(f"{block}.shortcut.0", c, before, 1)
                    self.norm(f"{block}.shortcut.1", c)
                before = c
        self.layer("fc", 10, before, 1)

    def __call__(self, x, b):
        x = F.relu(self.apply_norm("bn1", F.conv2d(x, b["conv1"], padding=1)))
        for stage in range(4):
            for i in range(2):
                block, stride = f"layer{stage + 1}.{i}", 2 if stage and i == 0 else 1
                out = F.conv2d(x, b[f"{block}.conv1"], padding=1, stride=stride)
                out = F.conv2d(F.relu(self.apply_norm(f"{block}.bn1", out)), b[f"{block}.conv2"], padding=1)
                out = self.apply_norm(f"{block}.bn2", out)
                if f"{block}.shortcut.0" in b:
                    x = self.apply_norm(f"{block}.shortcut.1", F.conv2d(x, b[f"{block}.shortcut.0"], stride=stride))
                x = F.relu(out + x)
        return F.conv2d(F.avg_pool2d(x, 4), b["fc"]).flatten(1)


NETWORKS = {
    "conv4": (Conv4, "conv4", 0.25, False),
    "vgg_small": (VGGSmall, "vgg_small", 0.125, False),
    "vgg_small_bn": (VGGSmall, "vgg_small", 0.125, True),
    "resnet18": (ResNet18, "cifar_resnet18", 0.125, False),
    "resnet18_bn": (ResNet18, "cifar_resnet18", 0.125, True),
}


def ours(builder, width):
    return getattr(backbones, builder)(width=width)


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["layerwise", "global"])
@pytest.mark.parametrize("network", NETWORKS)
def test_an_imported_ticket_computes_what_the_published_network_computes(tmp_path, network, selection):
    theirs, builder, width, affine = NETWORKS[network]
    theirs = theirs(width=width, affine=affine)
    told = {"prune_rate": 0.3, "conv_type": "GlobalSubnetConv"} if selection == "global" else {}
    theirs.save(tmp_path / "model_best.pth", **told)
    published = read_published(tmp_path / "model_best.pth")
    assert published.learn_batchnorm == affine
    ticket = import_published(published, ours(builder, width), prune=None if told else 0.7)
    ticket.save(tmp_path / "t.safetensors")
    ticket = Ticket.load(tmp_path / "t.safetensors")
    expected = theirs.ticket_weights(0.3, selection=selection)
    for row, weight in zip(ticket.header["layers"], expected.values(), strict=True):
        assert row["kept"] == int((weight != 0).sum())
        assert row["form"] == "binary"
        assert torch.allclose(ticket.weight(row["name"]).view(weight.shape), weight, rtol=1e-6, atol=0)
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ticket.network()(x), theirs(x, expected), rtol=1e-3, atol=1e-4)
    assert (ticket.header["imported"]["selection"], ticket.header["imported"]["best_acc1"]) == (selection, 88.0)
    assert ticket.header["seed"] is None
    assert ticket.header["method"]["prune"] == 0.7


def test_the_count_is_theirs_and_not_ours():
    assert [kept_of(n, kept_fraction=0.2) for n in (1728, 2560, 1000, 3)] == [346, 512, 200, 1]
    assert [gain_divisor(n, kept_fraction=0.2) for n in (1728, 2560, 1000, 3)] == [345, 512, 200, 1]
    ticket = import_published(_published(Conv4(width=0.25)), backbones.conv4(width=0.25), prune=0.8)
    kept = [row["kept"] for row in ticket.header["layers"]]
    sizes = [layer.weight.numel() for layer in ticket_layers(ticket.network()).values()]
    assert kept == [n - int((1 - 0.2) * n) for n in sizes]
    assert kept != [num_kept(n, prune=0.8) for n in sizes]


def _published(theirs, **told):
    from mpt.ticket.published import _ABOUT, Published

    assert set(told) <= set(_ABOUT)
    layers = {}
    for key, value in theirs.state.items():
        name, _, attribute = key.rpartition(".")
        layers.setdefault(name, {})[attribute] = value
    return Published(layers, {}, told)


def norms(name, *scaled):
    values = {key: torch.ones(3) for key in ("running_mean", "running_var", *scaled)}
    return {f"module.{name}.{key}": value for key, value in (values | {"num_batches_tracked": torch.tensor(1)}).items()}


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda s: s.pop("module.convs.2.scores"), {}, r"convs\.2\.weight but no convs\.2\.scores"),
        (lambda s: s.pop("module.convs.2.weight"), {}, r"convs\.2\.scores but no convs\.2\.weight"),
        (lambda s: s.update({"module.convs.2.mask": torch.ones(1)}), {}, r"key convs\.2\.mask belongs to no"),
        (lambda s: s.update({"temperature": torch.ones(1)}), {}, r"key temperature belongs to no"),
        (lambda s: [s.pop(f"module.convs.7.{a}") for a in ("weight", "scores")], {}, r"'classifier\.4' has no partner"),
        (
            lambda s: s.update({f"module.linear.6.{a}": torch.ones(10, 10, 1, 1) for a in ("weight", "scores")}),
            {},
            r"it has 8 searched layers and the model has 7; 'linear\.6' has no partner",
        ),
        (
            lambda s: s.update({f"module.linear.4.{a}": torch.ones(100, 64, 1, 1) for a in ("weight", "scores")}),
            {},
            r"linear\.4 is \[100, 64, 1, 1\] where the model's classifier\.4 is \[10, 64, 1, 1\]",
        ),
        (lambda s: s["module.convs.0.scores"].fill_(math.nan), {}, r"convs\.0 holds weights or scores that are not"),
        (lambda s: s.update({"module.bn.running_mean": torch.ones(3)}), {}, r"bn\.num_batches_tracked is missing"),
        (
            lambda s: s.update(
                {"module.bn.running_mean": torch.ones(3), "module.bn.running_var": torch.tensor([1.0, -1.0, 1.0])}
                | {"module.bn.num_batches_tracked": torch.tensor(1)}
            ),
            {},
            r"batch-norm bn holds values that are not numbers, or a variance below 0",
        ),
        (lambda s: s.update(norms("a", "weight", "bias") | norms("b")), {}, r"batch-norm b has no weight and bias"),
        (None, {}, "prune, the fraction removed, is missing"),
        (None, {"prune": 1.0}, r"prune is the fraction removed and must be in \[0, 1\), got 1"),
        (None, {"prune": 0.5, "told": {"prune_rate": 0.2}}, r"0\.2, which is prune=0\.8, got prune=0\.5"),
        (None, {"prune": 0.5, "told": {"conv_type": "DenseConv"}}, "conv_type is DenseConv"),
        (None, {"prune": 0.5, "selection": "global", "told": {"conv_type": "SubnetConv"}}, "pruned layerwise"),
        (None, {"prune": 0.5, "told": {"arch": "cResNet20"}}, "40 logits by mistake"),
        (lambda s: s["module.linear.0.scores"].mul_(1e-9), {"prune": 0.9, "selection": "global"}, "nothing of layer"),
    ],
)
def test_a_file_that_is_not_of_the_published_forms_is_refused(tmp_path, change, options, sentence):
    theirs = Conv4(width=0.25)
    state = {f"module.{key}": value for key, value in theirs.state.items()}
    options = {"prune": 0.5} | options if change else dict(options)
    told = options.pop("told", {})
    if change:
        change(state)
    torch.save({"state_dict": state, **told}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=sentence):
        import_published(read_published(tmp_path / "x.pth"), backbones.conv4(width=0.25), **options)


class Payload:
    """What a file must never be able to do."""

    def __reduce__(self):
        return (print, ("run",))


def test_no_code_of_a_file_is_run_and_other_files_are_refused(tmp_path, capsys):
    torch.save({"state_dict": {}, "payload": Payload()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint of plain tensors"):
        read_published(tmp_path / "code.pth")
    assert "run" not in capsys.readouterr().out
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read"):
        read_published(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="has no state_dict"):
        read_published(tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_published(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        (b"\x10\x00\0\0\0\0\0\0{}", "needs no import"),
        (b"<html>404</html>", "is no checkpoint but a web page"),
        (b"PK\x03\x04 cut", "truncated or damaged: take the original file"),
        (bytes(range(255, 0, -1)) * 9, "truncated or damaged: take the original file"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_called_what_it_is(tmp_path, content, sentence):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_published(tmp_path / "x.pth")
    assert "weights_only" not in str(caught.value)


def test_a_file_of_objects_is_refused_without_the_advice_to_run_them(tmp_path):
    torch.save({"state_dict": Path("x")}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="would run code: save its state_dict alone") as caught:
        read_published(tmp_path / "x.pth")
    assert "weights_only" not in str(caught.value)
