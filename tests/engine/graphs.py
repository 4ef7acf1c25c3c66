"""Random small networks with branches, of float32 values or of signs, for the engine's tests.

``python -m tests.engine.graphs 1000 1`` compares 1,000 of them from seed 1 on with torch in float64: by lists and
unrolled with the vectors of this machine, and with 8 or 4 lanes, at batches 1, 2, 15, 16, 17 and 65.
"""

from __future__ import annotations

import copy
import sys

import numpy as np
import torch
from torch import nn

import mpt
from tests.engine.networks import BATCHES, BOUND, compiled, with_statistics

OPERATIONS = ["conv", "conv", "conv", "conv", "max", "mean", "norm", "add", "concat", "slice", "adaptive"]
WORK = 60e6  # multiplications of an image, at most


class Graph(nn.Module):
    """Up to eight operations, each on any earlier value; sides 4 to 33, 1 to 70 channels.

    With ``binary`` activations, signs stand where ReLUs would. All numbers are then such that float32 is exact in front
    of a sign: else rounding alone could flip it.
    """

    def __init__(self, rng: np.random.Generator, *, binary: bool) -> None:
        super().__init__()
        side = int(rng.integers(4, 34))
        wide = side if rng.random() < 0.7 else int(rng.integers(4, 34))
        channels = int(rng.integers(1, 71) if rng.random() < 0.5 else rng.integers(1, 6))
        self.rng, self.binary, self.left = rng, binary, WORK
        self.layers, self.steps, self.shapes = nn.ModuleList(), [], [(channels, side, wide)]
        if binary and rng.random() < 0.6:
            self._put("layer", [0], self.shapes[0], mpt.BinaryActivation())
        for _ in range(int(rng.integers(1, 9))):
            many = len(self.shapes)
            source = many - 1 if many == 1 or rng.random() < 0.7 else int(rng.integers(int(binary), many))
            getattr(self, f"_{rng.choice(OPERATIONS)}")(source)
        self.end = self._end(*self.shapes[-1], int(rng.integers(1, 40)))

    def forward(self, x):
        values = [x]
        for kind, layer, inputs in self.steps:
            first, *others = (values[i] for i in inputs)
            if kind == "layer":
                values.append(self.layers[layer](first))
            elif kind == "slice":
                values.append(first[:, :, ::2, ::2])
            elif kind == "add":
                values.append(first + others[0] if self.binary else torch.relu(first + others[0]))
            else:
                values.append(torch.cat([first, *others], dim=1))
        return self.end(values[-1])

    def _put(self, kind, inputs, shape, layer=None):
        self.steps.append((kind, len(self.layers), inputs))
        self.shapes.append(shape)
        if layer is not None:
            self.layers.append(layer)

    def _try(self, layer, source):
        """Put ``layer`` behind ``source`` unless its window is larger than the image."""
        try:
            with torch.no_grad():
                after = layer.eval()(torch.zeros(1, *self.shapes[source]))
        except RuntimeError:
            return
        self._put("layer", [source], tuple(after.shape[1:]), layer)

    def _sign(self):
        return mpt.BinaryActivation() if self.binary else nn.ReLU()

    def _conv(self, source):
        rng, (channels, *sides) = self.rng, self.shapes[source]
        divisors = [g for g in range(1, channels + 1) if channels % g == 0]
        groups = int(rng.choice([1, 1, channels, int(rng.choice(divisors))]))
        out = groups * int(rng.integers(1, max(3, 71 // groups)))
        kernel = (3, 3) if rng.random() < 0.6 else tuple(int(k) for k in rng.integers(1, 6, size=2))
        stride = (1, 1) if rng.random() < 0.6 else tuple(int(s) for s in rng.integers(1, 4, size=2))
        dilation = (1, 1) if rng.random() < 0.75 else tuple(int(d) for d in rng.integers(1, 4, size=2))
        reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple(int(rng.integers(0, 1 + r)) if rng.random() < 0.4 else r // 2 for r in reach)
        work = out * channels // groups * np.prod([k * n // s for k, n, s in zip(kernel, sides, stride, strict=True)])
        if work > self.left:
            return
        self.left -= work
        bias = bool(not self.binary and rng.random() < 0.3)
        conv = nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias=bias)
        pool, norm, sign = rng.random(3) < (0.2 * self.binary, 0.5 + 0.35 * self.binary, 0.6 + 0.25 * self.binary)
        rest = [nn.MaxPool2d(2)] * bool(pool) + [nn.BatchNorm2d(out)] * bool(norm) + [self._sign()] * bool(sign)
        self._try(nn.Sequential(conv, *rest), source)

    def _pool(self, kind, most, source):
        kernel = int(self.rng.integers(1, most + 1))
        stride, padding = int(self.rng.integers(1, 4)), int(self.rng.integers(0, kernel // 2 + 1))
        self._try(kind(kernel, stride, padding, ceil_mode=bool(self.rng.random() < 0.3)), source)

    def _max(self, source):
        self._pool(nn.MaxPool2d, 3, source)

    def _mean(self, source):
        self._pool(nn.AvgPool2d, 2 if self.binary else 3, source)  # a third is not exact

    def _adaptive(self, source):
        mean = not self.binary and self.rng.random() < 0.6
        self._try((nn.AdaptiveAvgPool2d if mean else nn.AdaptiveMaxPool2d)(int(self.rng.integers(1, 7))), source)

    def _norm(self, source):
        self._try(nn.Sequential(nn.BatchNorm2d(self.shapes[source][0]), self._sign()), source)

    def _slice(self, source):
        channels, height, width = self.shapes[source]
        self._put("slice", [source], (channels, (height + 1) // 2, (width + 1) // 2))

    def _add(self, source):
        others = [i for i, shape in enumerate(self.shapes) if shape == self.shapes[source] and i != source]
        if others:
            self._put("add", [source, int(self.rng.choice(others))], self.shapes[source])

    def _concat(self, source):
        _, *sides = self.shapes[source]
        known = [i for i, (_, *others) in enumerate(self.shapes) if others == sides]
        parts = [int(i) for i in self.rng.choice(known, size=int(self.rng.integers(2, 4)))]
        channels = sum(self.shapes[i][0] for i in parts)
        if channels <= 140:
            self._put("concat", parts, (channels, *sides))

    def _end(self, channels, height, width, classes):
        many, bias = channels * height * width, bool(self.rng.random() < 0.5)
        mean = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        ends = {
            "linear": [nn.Flatten(), nn.Linear(many, classes, bias=bias)],
            "mean": [*mean, nn.Linear(channels, classes)],
            "conv": [nn.Conv2d(channels, classes, 1), *mean],
        }
        if self.binary:
            ends["signs"] = [nn.Conv2d(channels, classes, 3, padding=1, bias=False), nn.BatchNorm2d(classes)]
            ends["signs"] += [mpt.BinaryActivation(), nn.Flatten()]
        else:
            hidden = int(self.rng.integers(1, 300))
            ends["mlp"] = [nn.Flatten(), nn.Linear(many, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
            ends["mlp"] += [nn.Dropout(0.5), nn.Linear(hidden, classes)]
            ends["image"] = [nn.Conv2d(channels, classes, 3, padding=1)]
        return nn.Sequential(*ends[str(self.rng.choice([*ends]))])


@torch.no_grad()
def fill(net: Graph, rng: np.random.Generator) -> Graph:
    """Give layers -g, 0 and +g with one g a layer or an output, empty outputs, some real weights; and statistics."""
    prune = float(rng.choice([0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99]))
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            shape = tuple(layer.weight.shape)
            signs = rng.choice([-1.0, 0.0, 1.0], size=shape, p=[(1 - prune) / 2, prune, (1 - prune) / 2])
            if rng.random() < 0.2:
                signs[rng.random(len(signs)) < 0.3] = 0
            many = len(signs) if rng.random() < 0.4 else 1
            gains = 2.0 ** rng.integers(-4, 0, size=many) if net.binary else rng.uniform(0.05, 0.3, size=many)
            weight = signs * gains.reshape(-1, *[1] * (signs.ndim - 1))
            if not net.binary and rng.random() < 0.1:
                weight *= rng.uniform(0.5, 1.5, size=shape)
            layer.weight.copy_(torch.from_numpy(weight))
            if layer.bias is not None:
                layer.bias.copy_(torch.from_numpy(rng.integers(-8, 9, size=len(signs)) / 16))
        elif net.binary and isinstance(layer, nn.BatchNorm2d):
            many, layer.eps = layer.num_features, 0.0
            layer.running_mean.copy_(torch.from_numpy(rng.integers(-16, 17, size=many) / 8))
            layer.running_var.copy_(torch.from_numpy(4.0 ** rng.integers(-1, 2, size=many)))
            layer.weight.copy_(torch.from_numpy(rng.choice([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0], size=many)))
            layer.bias.copy_(torch.from_numpy(rng.integers(-8, 9, size=many) / 8))
    return net.eval() if net.binary else with_statistics(net, seed=int(rng.integers(2**30))).eval()


def compare(seed: int, *configurations: tuple[int | None, bool]) -> list[str]:
    """What differs from torch in float64 of the network ``seed``, for each (lanes, unrolled).

    Logits may differ by ``BOUND`` of the largest, signs by nothing.
    """
    rng = np.random.default_rng([seed, 14])
    net = fill(Graph(rng, binary=bool(rng.random() < 0.35)), rng)
    exact, shape, found, cases = copy.deepcopy(net).double(), net.shapes[0], [], []
    signs = len(net.end) > 1 and isinstance(net.end[-2], mpt.BinaryActivation)
    for n in BATCHES:
        generator = torch.Generator().manual_seed(100 * seed + n)
        images = torch.randn(n, *shape, generator=generator)
        images = (4 * images).round() / 4 if net.binary else images
        with torch.no_grad():
            cases.append((images, exact(images.double())))
    for lanes, unroll in configurations:
        run = compiled(net, shape, lanes=lanes, unroll=unroll, threads=1 + seed % 2)
        for images, wanted in cases:
            got, bound = run(images), 0.0 if signs else BOUND * float(wanted.abs().max())
            if float((got.reshape(wanted.shape) - wanted).abs().max()) > bound:
                found.append(f"seed {seed}, lanes {lanes}, unroll {unroll}, batch {len(images)}")
    return found


def main(many: int, first: int) -> None:
    torch.set_num_threads(1)
    wrong = 0
    for seed in range(first, first + many):
        found = compare(seed, (None, False), (None, True), ((8, 4)[seed % 2], bool(seed // 2 % 2)))
        wrong += bool(found)
        print("\n".join(found) if found else ".", end="\n" if found else "", flush=True)
    print(f"\n{many} networks from seed {first}: {wrong} differ")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
