"""Small trained-looking networks of the theory tests, with weights of one seed."""

from __future__ import annotations

import torch
from torch import nn

from mpt import backbones


class Cnn(nn.Module):
    """Two convolutions, one with batch-norm, a pool of each kind, and a linear layer; (N, 1, 8, 8) -> (N, 10)."""

    image_size = 8

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, 3, stride=1, padding=1, dilation=1), nn.ReLU(), nn.AvgPool2d(2)),
        )
        self.classifier = nn.Linear(24, 10)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


def cnn(seed=0):
    return seeded(Cnn, seed)


def mlp(hidden=(12,), side=4, seed=0):
    return seeded(lambda: backbones.mlp(hidden=hidden, image_size=side), seed)


def images(net, n=200, seed=1):
    """Inputs in [0, 1], the corners of the box among them."""
    generator = torch.Generator().manual_seed(seed)
    side = net.image_size
    inside = torch.rand(n, 1, side, side, generator=generator)
    corners = torch.randint(0, 2, (n, 1, side, side), generator=generator).float()
    return torch.cat([inside, corners])
