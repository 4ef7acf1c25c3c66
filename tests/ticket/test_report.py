from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt import backbones
from mpt.ticket.report import acceleration, chance, positions, report, report_file, score_histograms, zero_kernels

# (N inputs, M outputs, kernel side, D side of the output map) of the convolutions of the CIFAR ResNet-18
RESNET18 = [
    (3, 64, 3, 32),
    *[(64, 64, 3, 32)] * 4,
    *[(64, 128, 3, 16), (128, 128, 3, 16), (64, 128, 1, 16), (128, 128, 3, 16), (128, 128, 3, 16)],
    *[(128, 256, 3, 8), (256, 256, 3, 8), (128, 256, 1, 8), (256, 256, 3, 8), (256, 256, 3, 8)],
    *[(256, 512, 3, 4), (512, 512, 3, 4), (256, 512, 1, 4), (512, 512, 3, 4), (512, 512, 3, 4)],
]


@pytest.mark.parametrize(("sparsity", "zero", "rate"), [(0.7, 0.122, 1.05), (0.9, 0.451, 1.65), (0.95, 0.670, 2.73)])
def test_chance_alone_gives_the_published_network_these_zero_kernels_and_this_acceleration(sparsity, zero, rate):
    kernels = [n * m for n, m, _, _ in RESNET18]
    assert (sum(kernels), sum(n * m for n, m, k, _ in RESNET18 if k == 1)) == (1_392_832, 172_032)
    expected = [chance(sparsity, kernel=k * k) for _, _, k, _ in RESNET18]
    assert np.average(expected, weights=kernels) == pytest.approx(zero, abs=5e-4)
    layers = [(n * m, n * m * (1 - p), d * d * k * k) for (n, m, k, d), p in zip(RESNET18, expected, strict=True)]
    assert acceleration(layers) == pytest.approx(rate, abs=5e-3)


class Small(nn.Module):
    """Kernels of two sizes, a grouped convolution, one that is not searched, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.b = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, bias=False)
        self.c = nn.Conv2d(8, 4, 1, bias=False)
        self.free = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.fc = nn.Linear(4, 5, bias=False)

    def forward(self, x):
        x = self.free(self.c(torch.relu(self.b(torch.relu(self.a(x))))))
        return self.fc(x.mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def small():
    net = mpt.convert(Small(), mpt.Biprop(prune=0.85), seed=0, dense=("free",))
    ticket = mpt.Ticket.from_network(net)
    return ticket, ticket.network(Small())


def counted(mask):
    """Zero kernels, one at a time."""
    return sum(not mask[i, j].any() for i, j in itertools.product(range(mask.shape[0]), range(mask.shape[1])))


def test_every_number_of_a_report_is_that_of_its_definition(small):
    ticket, net = small
    found = report(ticket, net, image=torch.zeros(1, 3, 10, 10))
    rows = {row["name"]: row for row in found["layers"]}
    for name in ("a", "b", "c"):
        mask = ticket.mask(name).numpy()
        row, sparsity = rows[name], 1 - mask.mean()
        assert row["zero_kernels"] == counted(mask) == zero_kernels(ticket.mask(name))
        assert row["zero_chance"] == pytest.approx(sparsity ** mask[0, 0].size)
        assert row["zero_difference"] == pytest.approx(counted(mask) / row["kernels"] - row["zero_chance"])
        assert row["density"] == pytest.approx(mask.mean())
        assert row["gain"] == float(ticket.tensors[f"{name}.gain"])
    assert rows["fc"]["kernel"] is None
    sizes = {row["kernel"]: row for row in found["kernel_sizes"]}
    assert (sizes["3x3"]["kernels"], sizes["1x1"]["kernels"]) == (3 * 8 + 8 * 4, 32)
    assert found["all_kernels"]["zero_kernels"] == sum(rows[name]["zero_kernels"] for name in "abc") > 0
    cost = {"a": 100 * 9, "b": 25 * 9, "c": 25 * 1, "free": 25 * 9}  # D D k k
    kernels = {"a": 24, "b": 32, "c": 32, "free": 16}
    left = {name: kernels[name] - (rows[name]["zero_kernels"] if name in rows else 0) for name in cost}
    whole = sum(kernels[name] * cost[name] for name in cost)
    assert found["acceleration"] == pytest.approx(whole / sum(left[name] * cost[name] for name in cost))
    by_chance = {name: kernels[name] * (1 - (rows[name]["zero_chance"] if name in rows else 0)) for name in cost}
    assert found["acceleration_chance"] == pytest.approx(whole / sum(by_chance[n] * cost[n] for n in cost))


def test_a_random_mask_has_as_many_zero_kernels_as_chance_says():
    net = mpt.convert(backbones.conv4(image_size=8), mpt.Biprop(prune=0.8), seed=0)  # first scores are random
    found = report(mpt.Ticket.from_network(net), net, image=torch.zeros(1, 3, 8, 8))
    assert found["all_kernels"]["kernels"] == 3 * 64 + 64 * 64 + 64 * 128 + 128 * 128
    assert abs(found["all_kernels"]["zero_difference"]) < 0.01
    assert found["all_kernels"]["zero_chance"] == pytest.approx(0.8**9, abs=1e-3)


def test_a_layer_that_is_called_twice_computes_twice(small):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.a(self.a(x))

    assert positions(Twice(), torch.zeros(1, 3, 6, 6)) == {"a": 72}
    with pytest.raises(ValueError, match="image_size=10 does not fit this backbone"):
        positions(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(7, 2)), torch.zeros(1, 3, 10, 10))


def test_a_weight_of_two_layers_is_counted_once_and_computes_twice():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 3, padding=1, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    net = mpt.convert(Tied(), mpt.Biprop(prune=0.9), seed=0)
    found = report(mpt.Ticket.from_network(net), net, image=torch.zeros(1, 3, 6, 6))
    assert found["all_kernels"]["kernels"] == 9
    assert positions(net, torch.zeros(1, 3, 6, 6)) == {"a": 36, "b": 36}


def test_histograms_hold_every_score_between_its_edges():
    scores = torch.linspace(-1, 3, 1000).view(10, 100)
    found = score_histograms({"layer": scores}, bins=8)["layer"]
    assert sum(found["counts"]) == 1000
    assert (found["edges"][0], found["edges"][-1], len(found["edges"])) == (-1, 3, 9)
    assert found["counts"] == [
        int(((scores >= low) & (scores < low + 0.5)).sum()) for low in np.arange(-1, 2.5, 0.5)
    ] + [int((scores >= 2.5).sum())]


def test_the_report_of_a_file_adds_the_histograms_of_its_runs_scores(small, tmp_path):
    ticket, net = small
    scores = {
        f"net.{layer.name}.scores": torch.linspace(0, 1, layer.num_weights).view(layer.shape) for layer in ticket.layers
    }
    torch.save({"state_dict": scores}, tmp_path / "last.ckpt")
    image = torch.zeros(1, 3, 10, 10)
    options = {"path": tmp_path / "t", "backbone": Small(), "image": image, "bins": 4}
    full = report_file(ticket, checkpoint=tmp_path / "last.ckpt", **options)
    assert full["ticket"] == str(tmp_path / "t")
    assert {row["name"]: sum(row["scores"]["counts"]) for row in full["layers"]} == {
        layer.name: layer.num_weights for layer in ticket.layers
    }
    plain = report_file(ticket, checkpoint=None, **options)
    assert plain == {"ticket": str(tmp_path / "t")} | report(ticket, net, image=image)
    with pytest.raises(FileNotFoundError):
        report_file(ticket, checkpoint=tmp_path / "none", **options)
    for broken, sentence in ((b"", "is damaged"), ({"state_dict": {}}, "is of another run")):
        torch.save(broken, tmp_path / "other")
        with pytest.raises(ValueError, match=sentence):
            report_file(ticket, checkpoint=tmp_path / "other", **options)


def test_a_dense_baseline_has_no_report():
    net = mpt.convert(backbones.conv2(width=0.25, image_size=8), mpt.Dense(), seed=0)
    with pytest.raises(ValueError, match="dense baseline"):
        report(mpt.Ticket.from_network(net), net, image=torch.zeros(1, 3, 8, 8))
