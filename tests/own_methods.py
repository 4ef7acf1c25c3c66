"""Methods as a user would write them, for the tests of every room."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import mpt
from mpt.search.initializers import random_weight
from mpt.streams import stream_generator


@dataclass(frozen=True, kw_only=True)
class IteRand(mpt.Biprop):
    """Redraws a share of the pruned weights before every ``period``-th step (Chijiwa et al., NeurIPS 2021)."""

    period: int = 300
    share: float = 0.1

    def update(self, layers, *, seed, epoch, step):
        if step % self.period != self.period - 1:
            return
        for name, layer in layers.items():
            stream = f"{name}/epoch {epoch}/step {step}"
            options = {"init": self.init, "scale_fan": self.scale_fan, "prune": self.layer_prune(name)}
            fresh = random_weight(layer.weight.shape, seed=seed, layer=stream, **options)
            chance = stream_generator(seed, f"iterand/{stream}").random(fresh.numel())
            redraw = torch.from_numpy(chance < self.share).view_as(fresh) & ~layer.mask()
            layer.weight.copy_(torch.where(redraw, fresh, layer.weight))


@dataclass(frozen=True, kw_only=True)
class PerChannel(mpt.Biprop):
    """One gain per output channel: the mean magnitude of the weights that the channel keeps, 0 if it keeps none."""

    dim: int = 0  # the weight's dimension of output channels; 1 in a transposed convolution

    def gain(self, weight, mask):
        others = [dim for dim in range(weight.dim()) if dim != self.dim]
        kept = mask.sum(others, keepdim=True).clamp(min=1)
        return (weight.abs() * mask).sum(others, keepdim=True) / kept
