"""``mpt new method NAME`` and ``mpt new model NAME``: the files of your own method or backbone, and a test of it."""

from __future__ import annotations

import keyword
import sys
from importlib.util import find_spec
from pathlib import Path

from mpt.files import CONF, write_atomically

METHOD = '''"""{title}: your own search method, which overrides the formulas in which it differs from biprop."""

from dataclasses import dataclass

import mpt


@dataclass(frozen=True, kw_only=True)
class {title}(mpt.Biprop):
    """Biprop with the gain g = (sum(m |w|^norm) / sum(m))^(1 / norm): write your formula instead."""

    norm: float = 2.0

    def __post_init__(self):
        super().__post_init__()
        if self.norm <= 0:
            raise ValueError(f"norm is an exponent and must be above 0, got {{self.norm}}")

    def gain(self, weight, mask):
        return ((weight.abs() ** self.norm * mask).sum() / mask.sum()) ** (1 / self.norm)
'''
METHOD_YAML = """# {name}.{title}; its other options are biprop's
defaults: [biprop, _self_]
name: {name}
target: {name}.{title}
norm: 2.0
"""
METHOD_TEST = """import torch
from {name} import {title}

import mpt
from mpt.search.layers import ticket_layers


def test_the_network_computes_with_the_gain_of_the_formula():
    net = mpt.convert(mpt.backbones.mlp(in_channels=1, image_size=8), {title}(prune=0.8), seed=0)
    for layer in ticket_layers(net).values():
        kept = layer.weight[layer.mask()].abs()
        expected = (kept**2.0).mean().sqrt()
        magnitudes = layer.ticket_weight()[layer.mask()].abs()
        torch.testing.assert_close(magnitudes, expected.expand_as(magnitudes))
"""
MODEL = '''"""{title}: your own backbone, any torch module that maps images to logits."""

from torch import nn


def {name}(*, num_classes=10, in_channels=3, width=1.0):
    """Two convolutions and a linear layer: write your network instead. (N, C, H, W) -> (N, num_classes)."""
    channels = max(1, round(32 * width))
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * channels, num_classes, bias=False),
    )
'''
MODEL_YAML = """# {name}.{name}; mpt passes num_classes, in_channels, image_size and width as far as it accepts them
name: {name}
target: {name}.{name}
"""
MODEL_TEST = """import torch
from {name} import {name}

import mpt
from mpt.search.layers import ticket_layers


def test_every_convolution_and_linear_layer_is_searched():
    net = mpt.convert({name}(in_channels=1), mpt.Biprop(prune=0.8), seed=0)
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert len(ticket_layers(net)) == 3
"""
TEMPLATES = {"method": (METHOD, METHOD_YAML, METHOD_TEST), "model": (MODEL, MODEL_YAML, MODEL_TEST)}


def new(arguments: list[str]) -> str:
    """Write the module, the YAML file and the test of a new method or model into the current folder; say what to do.

    Raises:
        ValueError: no kind or name, a name that Python cannot import or knows already, or a file that is there.
    """
    if len(arguments) != 2 or arguments[0] not in TEMPLATES:
        raise ValueError(f"say what to write: mpt new method NAME, or mpt new model NAME, got {' '.join(arguments)!r}")
    kind, name = arguments
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name) or name != name.lower():
        raise ValueError(f"the name of a {kind} is that of a Python module, lower-case as in my_{kind}, got {name!r}")
    title = "".join(word.capitalize() for word in name.split("_"))
    paths = Path(f"{name}.py"), Path("conf", kind, f"{name}.yaml"), Path(f"test_{name}.py")
    if there := [path for path in paths if path.exists()]:
        raise ValueError(f"{there[0]} is there already: choose another name, or remove it")
    # what is there would be found in the place of the new one
    if (CONF / kind / f"{name}.yaml").is_file() or name in sys.modules or find_spec(name):
        raise ValueError(f"{name} is a {kind} or a Python module already: choose another name, as my_{name}")
    for path, template in zip(paths, TEMPLATES[kind], strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, template.format(name=name, title=title))
    return "\n".join(
        [
            f"wrote {', '.join(map(str, paths))}: change them, then",
            f"  python -m pytest test_{name}.py",
            f"  mpt-train --config-dir conf {kind}={name} data=digits epochs=2"
            + (" model=conv2" if kind == "method" else ""),
        ]
    )
