"""Networks with ticket weights, small and random, for the engine's tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import mpt
from mpt.engine.code import Machine
from mpt.engine.engine import Run
from mpt.engine.fuse import fuse
from mpt.engine.recipe import make
from mpt.engine.trace import trace

BATCHES = (1, 2, 15, 16, 17, 65)
BOUND = 2e-5  # of the largest logit


def compiled(net, shape, *, lanes=None, unroll=False, threads=1):
    machine = Machine.host(lanes=lanes)
    return Run(*make(fuse(trace(net, shape=shape)), machine=machine, unroll=unroll), machine=machine, threads=threads)


def assert_same(run, net, *, batches=BATCHES, seed=0):
    """``run`` gives the logits of ``net``, computed by torch in float64, within the bound."""
    generator = torch.Generator().manual_seed(seed)
    exact = net.double().eval()
    for n in batches:
        images = torch.randn(n, *run.shape, generator=generator)
        with torch.no_grad():
            wanted = exact(images.double())
        got = run(images)
        assert got.shape == wanted.shape
        assert float((got - wanted).abs().max()) <= BOUND * float(wanted.abs().max()), n
    net.float()


def with_statistics(net, *, seed=0):
    """``net`` with batch-norm statistics, scales and shifts as training leaves them: scales of both signs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                norm.running_mean.normal_(0, 0.3, generator=generator)
                norm.running_var.uniform_(0.5, 1.5, generator=generator)
                if norm.weight is not None:
                    norm.weight.normal_(generator=generator)
                    norm.bias.normal_(0, 0.2, generator=generator)
    return net


def ticket(backbone, *, prune=0.7, method=mpt.Biprop, **options):
    net = with_statistics(mpt.convert(backbone, method(prune=prune), seed=0, **options))
    return mpt.Ticket.from_network(net)


def make_ternary(net, rng, *, prune):
    """Give each convolution and linear layer weights of -g, 0 and +g, some layers one g an output."""
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                signs = rng.choice(
                    [-1.0, 0.0, 1.0], size=tuple(layer.weight.shape), p=[(1 - prune) / 2, prune, (1 - prune) / 2]
                )
                gains = rng.uniform(0.05, 0.3, size=len(signs) if rng.random() < 0.5 else 1)
                layer.weight.copy_(torch.from_numpy(signs * gains.reshape(-1, *[1] * (signs.ndim - 1))))
    return net.eval()


def sparse(net, *, prune, seed=0):
    """A network built on the meta device, with random weights of -g, 0 and +g: large ones take no time."""
    generator, net = torch.Generator().manual_seed(seed), net.to_empty(device="cpu")
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.reset_running_stats()
            elif isinstance(layer, (nn.Conv2d, nn.Linear)):
                n = layer.weight.numel()
                kept = max(len(layer.weight), round(n * (1 - prune)))
                gain = (2 * len(layer.weight) / kept) ** 0.5
                places = torch.randint(n, (kept,), generator=generator)
                signs = 2.0 * torch.randint(2, (kept,), generator=generator) - 1
                layer.weight.zero_().view(-1)[places] = gain * signs
                if layer.bias is not None:
                    layer.bias.normal_(0, 0.1, generator=generator)
    return with_statistics(net, seed=seed).eval()


class Random(nn.Module):
    """A few random operations on an image, then a linear layer; ``side`` 4 to 33, 1 to 70 channels."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.side, self.channels = (
            int(rng.integers(4, 34)),
            int(rng.integers(1, 71) if rng.random() < 0.5 else rng.integers(1, 6)),
        )
        self.steps, self.skips = nn.ModuleList(), []
        channels, x = self.channels, torch.zeros(1, self.channels, self.side, self.side)
        for _ in range(int(rng.integers(1, 5))):
            step, out = self._step(rng, channels)
            try:
                with torch.no_grad():
                    after = step.eval()(x)
            except RuntimeError:  # its window is larger than what is left of the image
                continue
            self.skips.append(after.shape == x.shape and rng.random() < 0.7)
            self.steps.append(step)
            channels, x = out, after
        self.fc = nn.Linear(x[0].numel(), int(rng.integers(1, 40)), bias=bool(rng.random() < 0.5))

    @staticmethod
    def _step(rng, channels):
        kind = rng.choice(["conv", "conv", "conv", "max", "mean", "norm"])
        if kind == "norm":
            return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()), channels
        if kind != "conv":
            k = int(rng.integers(1, 4))
            options = {"kernel_size": k, "stride": int(rng.integers(1, 4)), "padding": int(rng.integers(0, k // 2 + 1))}
            return (nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(
                **options, ceil_mode=bool(rng.random() < 0.3)
            ), channels
        groups = int(rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))
        out = groups * int(rng.integers(1, max(2, 60 // groups)))
        kernel = tuple(int(k) for k in rng.integers(1, 4, size=2))
        stride, dilation = (
            tuple(int(s) for s in rng.integers(1, 3, size=2)),
            tuple(int(d) for d in rng.integers(1, 3, size=2)),
        )
        padding = tuple(int(rng.integers(0, 1 + (k - 1) * d)) for k, d in zip(kernel, dilation, strict=True))
        conv = nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias=bool(rng.random() < 0.3))
        rest = [nn.BatchNorm2d(out)] * bool(rng.random() < 0.5) + [nn.ReLU(inplace=True)] * bool(rng.random() < 0.7)
        return nn.Sequential(conv, *rest), out

    def forward(self, x):
        for step, skip in zip(self.steps, self.skips, strict=True):
            x = step(x) + x if skip else step(x)
        return self.fc(x.flatten(1))
