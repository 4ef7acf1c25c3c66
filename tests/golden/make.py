"""Golden numbers, which must not change by accident; ``make golden`` computes and stores them again.

Two kinds (say in CHANGELOG, Numbers, when either changes):

* exact ones of a network as drawn from its seed: counts, digests of signs, masks and first scores, gains to six
  decimals. They are equal on every machine;
* the loss of the first forward. Kinds of CPU round it differently, so it holds within :data:`TOLERANCE`.

Numbers after several training steps are not stored: rounding grows from step to step until machines disagree.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import mpt
from mpt import backbones, data
from mpt.search.layers import ticket_layers

FILE = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-5  # relative, of a loss
METHODS = {
    "biprop": mpt.Biprop(prune=0.8),
    "biprop_sign_uniform": mpt.Biprop(prune=0.5, score_grad="sign", init="kaiming_uniform", scale_fan="none"),
    "edge_popup": mpt.EdgePopup(prune=0.5),
}


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()[:16]


def network(method: mpt.Method) -> nn.Module:
    return mpt.convert(backbones.conv2(width=0.25, image_size=8, in_channels=1), method, seed=0)


def exact_numbers(method: mpt.Method) -> dict[str, object]:
    """Of each layer of a small network from seed 0."""
    return {
        name: {
            "kept": int(layer.mask().sum()),
            "signs": digest(layer.weight >= 0),
            "scores": digest(layer.scores),
            "mask": digest(layer.mask()),
            "gain": round(float(layer.gain()), 6),
        }
        for name, layer in ticket_layers(network(method)).items()
    }


def first_loss(method: mpt.Method) -> float:
    """Cross-entropy of the network on the first 64 training images of digits, in float32."""
    digits = data.load("digits")
    batch = next(iter(data.Loader(digits.train, data=digits, batch=64, train=True)))
    return F.cross_entropy(network(method).train()(batch.images), batch.labels).item()


def golden() -> dict[str, object]:
    return {
        name: {"start": exact_numbers(method), "first_loss": round(first_loss(method), 6)}
        for name, method in METHODS.items()
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden(), indent=2) + "\n")
    print(f"wrote {FILE}")
