"""What a sweep will take, said before it starts: hours and bytes, to a factor of two or three at best.

Work of a run = 3 x multiply-adds of a forward pass x images x epochs (backward costs twice the forward). Seconds per
unit of work come from the runs of the same folder that are done, else from one convolution timed on this machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from mpt.data.facts import FACTS
from mpt.experiment import status
from mpt.experiment.build import build_backbone, build_method, check_ramp

SECONDS_A_RUN = 2  # data read, network made, ticket measured
BYTES_A_WEIGHT = 13  # frozen weight, score, momentum in the checkpoint, and some bits in the ticket


def check_methods(configs: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError for a method that cannot be built: an axis has a value that it does not take."""
    for config in configs:
        check_ramp(build_method(config["method"], prune=config["prune"]), epochs=config["epochs"])


def estimated(configs: Sequence[dict[str, Any]], folder: Path) -> str:
    """One sentence on time and space of the runs ``configs``; ValueError for a network that cannot be built."""
    sizes: dict[str, tuple[int, int] | None] = {}
    works, weights = [], []
    for config in configs:
        key = json.dumps([config[name] for name in ("model", "data", "width", "binary_activations")], sort_keys=True)
        if key not in sizes:
            sizes[key] = _size(config)
        if (size := sizes[key]) is not None:
            works.append(3 * size[0] * _images(config) * config["epochs"])
            weights.append(size[1])
    if not works:
        return "estimate: none, as the size of the data is not known before it is read"
    rate, source = _seconds_a_unit(folder)
    seconds = (sum(works) * rate / len(works) + SECONDS_A_RUN) * len(configs)
    size_bytes = BYTES_A_WEIGHT * sum(weights) * len(configs) / len(works)
    return f"estimate: about {_time(seconds)} one after the other ({source}), {_bytes(size_bytes)} on disk"


def _shape(config: dict[str, Any]) -> tuple[int, int, int, int] | None:
    data = config["data"]
    if data["name"] == "synthetic":
        known = (data["num_images"], data["channels"], 32, data["num_classes"])
    elif data["name"] in FACTS:
        known = FACTS[data["name"]]
    elif data["train_size"] and data["image_size"]:
        known = (data["train_size"], 3, data["image_size"], 10)
    else:
        return None
    return known[0], known[1], data["image_size"] or known[2], known[3]


def _images(config: dict[str, Any]) -> int:
    shape = _shape(config)
    assert shape is not None
    limit = config["trainer"]["limit_batches"]
    return min(config["data"]["train_size"] or shape[0], shape[0], limit * config["batch"] if limit else shape[0])


def _size(config: dict[str, Any]) -> tuple[int, int] | None:
    """Multiply-adds of one image and number of weights; None if the data's shape is not known before it is read."""
    shape = _shape(config)
    if shape is None:
        return None
    images: Any = SimpleNamespace(
        name=config["data"]["name"], channels=shape[1], image_size=shape[2], num_classes=shape[3]
    )
    with torch.device("meta"):
        net = build_backbone(
            config["model"],
            images,
            width=config["width"],
            seed=0,
            binary_activations=config["binary_activations"],
        ).eval()
        counts: list[int] = []
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(lambda layer, _, out: counts.append(_multiply_adds(layer, out)))
        with torch.no_grad():
            net(torch.zeros(1, shape[1], shape[2], shape[2]))
    return sum(counts), sum(parameter.numel() for parameter in net.parameters() if parameter.ndim > 1)


def _multiply_adds(layer: nn.Module, out: torch.Tensor) -> int:
    weight: Any = layer.weight
    positions = out.shape[-1] * out.shape[-2] if isinstance(layer, nn.Conv2d) else 1
    return int(weight.numel() * positions)


def _seconds_a_unit(folder: Path) -> tuple[float, str]:
    """Seconds of one multiply-add in training, and where the number comes from."""
    rates = []
    for path in sorted(folder.glob("*/result.json"))[:200]:
        row = status.result(path.parent)
        with suppress(KeyError, TypeError, ValueError):  # a row of another version, or an incomplete one
            if row.get("status") == "done" and (size := _size(row["config"])):
                rates.append(row["seconds"] / (3 * size[0] * _images(row["config"]) * row["config"]["epochs"]))
    if rates:
        return sorted(rates)[len(rates) // 2], f"from {len(rates)} runs that are done"
    return _timed(), "rough: from one convolution timed here"


def _timed() -> float:
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    layer, images = nn.Conv2d(64, 64, 3, padding=1).to(device), torch.zeros(32, 64, 16, 16, device=device)
    passes, positions = 5, 16 * 16
    for _ in range(2):  # the first round warms up
        start = time.perf_counter()
        for _ in range(passes):
            total = layer(images).sum()
            total.backward()
        float(total.detach())  # waits for the device
        seconds = time.perf_counter() - start
    return seconds / (3 * passes * 32 * positions * layer.weight.numel())


def _time(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(1, round(seconds))} seconds"


def _bytes(size: float) -> str:
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
