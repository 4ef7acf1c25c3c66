"""Numbers that must not move by accident; ``make golden`` writes them anew (then say so in CHANGELOG, Numbers)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch.nn import functional as F

import mpt
from mpt import backbones, data
from mpt.search.layers import ticket_layers

FILE = Path(__file__).with_name("golden.json")
METHODS = {
    "biprop": mpt.Biprop(prune=0.8),
    "biprop_sign_uniform": mpt.Biprop(prune=0.5, score_grad="sign", init="kaiming_uniform", scale_fan="none"),
    "edge_popup": mpt.EdgePopup(prune=0.5),
}


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()[:16]


def start_of(method: mpt.Method) -> dict[str, object]:
    """Exact: signs, masks and gains of a small network as drawn from seed 0."""
    net = mpt.convert(backbones.conv2(width=0.25, image_size=8, in_channels=1), method, seed=0)
    return {
        name: {
            "signs": digest(layer.weight >= 0),
            "mask": digest(layer.mask()),
            "gain": round(float(layer.gain()), 6),
        }
        for name, layer in ticket_layers(net).items()
    }


def losses_of(method: mpt.Method, *, steps: int = 8) -> list[float]:
    """Training losses of a bare loop on digits, batch 64, SGD; they may differ in the last digits between machines."""
    torch.set_num_threads(1)
    digits = data.load("digits")
    net = mpt.convert(backbones.conv2(width=0.25, image_size=8, in_channels=1), method, seed=0).train()
    optim = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1, momentum=0.9, weight_decay=1e-4)
    losses = []
    for _, batch in zip(range(steps), data.Loader(digits.train, data=digits, batch=64, train=True), strict=False):
        loss = F.cross_entropy(net(batch.images), batch.labels)
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses.append(round(loss.item(), 5))
    return losses


def golden() -> dict[str, object]:
    return {name: {"start": start_of(method), "losses": losses_of(method)} for name, method in METHODS.items()}


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden(), indent=2) + "\n")
    print(f"wrote {FILE}")
