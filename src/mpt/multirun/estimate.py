"""An estimate of the time and space of a sweep before it starts, right within a factor of two or three at best.

Work of a run = 3 x multiply-adds of a forward pass x images x epochs (backward costs twice the forward). The seconds
per unit of work come from finished runs of the same networks in the folder, else from timing one convolution.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from mpt.data.facts import FACTS
from mpt.experiment.build import build_backbone, build_method, check_ramp
from mpt.run.name import FOLDERS
from mpt.run.settings import Data, Settings, plain
from mpt.run.status import count_runs, result
from mpt.words import duration, size

SECONDS_PER_RUN = 2  # to read data, build the network and measure the ticket
_SIZES: dict[str, tuple[int, int] | None] = {}  # of the networks counted so far
BYTES_PER_WEIGHT = 13  # frozen weight, score and momentum in the checkpoint, and some bits in the ticket


def check_methods(runs: Sequence[Settings]) -> None:
    """Raise ValueError if an axis has a value with which a method cannot be built."""
    for settings in runs:
        check_ramp(build_method(settings.method, prune=settings.prune), epochs=settings.epochs)


def estimate(runs: Sequence[Settings], folder: Path) -> str:
    """One sentence about the time and space that ``runs`` take; ValueError if a network cannot be built."""
    known = [work for work in _measure(runs) if work is not None]
    if not known:
        return "estimate: none, because the size of the data is unknown until they are read"
    rate, source = _seconds_per_unit(folder, {_network(plain(settings)): _size(settings) for settings in runs})
    seconds = (sum(work for work, _ in known) * rate / len(known) + SECONDS_PER_RUN) * len(runs)
    size_bytes = BYTES_PER_WEIGHT * sum(weights for _, weights in known) * len(runs) / len(known)
    return f"estimate: about {duration(seconds)} if run one after the other ({source}), and {size(size_bytes)} on disk"


def works(runs: Sequence[Settings]) -> list[float]:
    """Multiply-adds of training of each of ``runs``; the epochs of all if one is unknown, as of data not yet read."""
    try:
        measured = _measure(runs)
    except ValueError:
        measured = [None]
    if None in measured:
        return [float(settings.epochs) for settings in runs]
    return [float(work) for work, _ in filter(None, measured)]


def _measure(runs: Sequence[Settings]) -> list[tuple[int, int] | None]:
    """Multiply-adds of training of each of ``runs``, and its number of weights; None where the data are unknown."""
    images: dict[str, int] = {}  # of the data: an image folder is listed once, not for each run
    measured: list[tuple[int, int] | None] = []
    for settings in runs:
        if (size := _size(settings)) is None:
            measured.append(None)
            continue
        data = repr(settings.data)
        if data not in images:
            shape = image_shape(settings.data)
            assert shape is not None
            images[data] = shape[0]
        measured.append((3 * size[0] * _images(settings, images[data]) * settings.epochs, size[1]))
    return measured


def _network(config: Mapping[str, Any]) -> str:
    """The part of a run's plain settings that decides the size of its network, as text."""
    return json.dumps([config[name] for name in ("model", "data", "width", "binary_activations")], sort_keys=True)


def image_shape(data: Data) -> tuple[int, int, int, int] | None:
    """(images, channels, side, classes); None if they are unknown until the data are read."""
    if data.name == "synthetic":
        shape = (data.num_images, data.channels, 32, data.num_classes)
    elif data.name in FACTS:
        shape = FACTS[data.name]
    elif data.name in FOLDERS and data.root and Path(data.root).is_dir():
        shape = _folder_shape(data)
    elif data.train_size and data.image_size:
        shape = (data.train_size, 3, data.image_size, 10)
    else:
        return None
    return shape[0], shape[1], data.image_size or shape[2], shape[3]


def _folder_shape(data: Data) -> tuple[int, int, int, int]:
    """The same for an image folder, whose listing is read, and one picture if there is no ``image_size``."""
    from mpt.data.listing import listings
    from mpt.data.pictures import common_side

    train, _, class_names = listings(Path(str(data.root)), name=data.name, test_size=data.test_size)
    return len(train.files), 3, data.image_size or common_side(train.files[0]), len(class_names)


def _images(settings: Settings, most: int) -> int:
    """Number of training images in an epoch, of ``most`` images that the data have."""
    limit = settings.trainer.limit_batches
    return min(settings.data.train_size or most, most, limit * settings.batch if limit else most)


def _size(settings: Settings) -> tuple[int, int] | None:
    """Multiply-adds per image and number of weights; None if the images' shape is unknown until they are read."""
    key = _network(plain(settings))
    if key not in _SIZES:
        _SIZES[key] = _count(settings)
    return _SIZES[key]


def _count(settings: Settings) -> tuple[int, int] | None:
    shape = image_shape(settings.data)
    if shape is None:
        return None
    images: Any = SimpleNamespace(name=settings.data.name, channels=shape[1], image_size=shape[2], num_classes=shape[3])
    with torch.device("meta"):
        net = build_backbone(
            settings.model,
            images,
            width=settings.width,
            seed=0,
            binary_activations=settings.binary_activations,
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


def _seconds_per_unit(folder: Path, sizes: Mapping[str, tuple[int, int] | None]) -> tuple[float, str]:
    """Seconds per multiply-add in training, and the source of that number.

    A result is data. Its numbers count only if its network is one of ``sizes``, which come from the settings of this
    command; nothing that a result names is ever built.
    """
    rates = []
    for path in sorted(folder.glob("*/result.json"))[:200]:
        run = result(path.parent)
        with suppress(KeyError, TypeError, ValueError, ZeroDivisionError):  # of another version, or incomplete
            if run.get("status") == "done" and (work := sizes.get(_network(run["config"]))):
                config = run["config"]
                most = (config["trainer"]["limit_batches"] or run["num_train"]) * config["batch"]
                images = min(run["num_train"], most)
                rates.append(run["seconds"] / (3 * work[0] * images * run["epochs"]))
    rates = [rate for rate in rates if rate > 0]
    if rates:
        return sorted(rates)[len(rates) // 2], f"from {count_runs(len(rates))} that finished"
    return _time_convolution(), "rough: from timing one convolution"


def _time_convolution() -> float:
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
