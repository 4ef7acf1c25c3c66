"""The words in a figure: names of axes, lines and panels, and the numbers that are shown in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpt.analysis.aggregate import spell
from mpt.schema import printable

LABELS = {
    "prune": "weights pruned (%)",
    "density": "weights kept (%)",
    "width": "width factor",
    "num_kept": "weights",
    "bits_per_weight": "bits a weight",
    "file_bits_per_weight": "bits a weight of the file",
    "test_acc": "test accuracy (%)",
    "test_acc_max": "test accuracy of the best epoch (%)",
    "test/acc": "test accuracy (%)",
    "epoch": "epoch",
    "optim.lr": "learning rate",
    "seconds_per_epoch": "seconds an epoch",
    "score": "score",
    "share": "share of the scores",
    "layer": "layer",
    "zero": "zero kernels (%)",
    "zero_chance": "zero kernels by chance (%)",
    "report/acceleration": "acceleration rate",
}

_NAMES = {  # what the settings call it -> what people call it
    **{f"conv{depth}": f"Conv{depth}" for depth in (2, 4, 6, 8, 10)},
    **{f"cifar_resnet{depth}": f"ResNet-{depth}" for depth in (18, 20, 32, 34, 44, 50, 56, 110)},
    **{"vgg_small": "VGG-Small", "mlp": "MLP", "wide_resnet18_2": "Wide ResNet-18", "wide_resnet34": "Wide ResNet-34"},
    **{"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"},
    **{"imagenet": "ImageNet", "image_folder": "an image folder", "sgd": "SGD", "adam": "Adam", "adamw": "AdamW"},
}
_WORDS = {  # settings whose value says enough without its name, or which have a better one
    "optim.name": "{}",
    "optim.schedule": "{} schedule",
    "method.selection": "{} selection",
    "method.power": "power {}",
    "layers": "{} layers",
}


def name_of(value: Any) -> str:
    """The name of a network, data set or optimizer as people write it: ``conv2`` -> ``Conv2``."""
    return _NAMES.get(str(value), spell(value).replace("_", " "))


def axis_factor(column: str) -> float:
    """Factor from the table to an axis: 100 for fractions, which are shown in percent, else 1."""
    word = column.rsplit("/", 1)[-1]
    is_fraction = word.startswith(("prune", "density", "sparsity", "flips", "zero")) or "acc" in word.split("_")
    return 100.0 if is_fraction else 1.0


def axis_label(column: str) -> str:
    return LABELS.get(column, column.replace("/", " ").replace(".", " ").replace("_", " "))


def line_label(values: Mapping[str, Any], hue: tuple[str, ...], *, dense: bool = False) -> str:
    """Label a line, as in ``MPT-1/32, 90 % pruned``; a dense network is ``dense``, without settings of a ticket."""
    dense = dense or "dense" in (values.get("variant"), values.get("method"))
    words = []
    for name in hue:
        value = values.get(name)
        if value is None or value != value or (dense and name == "prune"):
            continue
        if name in ("variant", "method"):
            words.append(str(value))
        elif name in ("model", "data"):
            words.append(name_of(value))
        elif name == "prune":
            words.append(f"{100 * value:g} % pruned")
        else:
            words.append(_WORDS.get(name, f"{_word(name)} {{}}").format(name_of(value)))
    if dense and hue and "dense" not in words:
        words.insert(0, "dense")
    return _plain(", ".join(words) or (f"no {_word(hue[0])}" if hue else ""))


def panel_title(values: Mapping[str, Any], panel: tuple[str, ...]) -> str:
    """Title of a panel, as in ``Conv4, 50 % pruned``, without columns that ``values`` lacks."""
    return _plain(", ".join(_part(name, values[name]) for name in panel if name in values))


def _part(name: str, value: Any) -> str:
    """One value in a title of a panel."""
    if name in ("model", "data"):
        return name_of(value)
    if name in ("variant", "method"):
        return spell(value)
    if name == "prune":
        return f"{100 * value:g} % pruned"
    return _WORDS.get(name, f"{_word(name)} {{}}").format(name_of(value))


def _plain(text: str) -> str:
    """``text`` from a file, printable and without mathematics: matplotlib reads what stands between two dollars."""
    return printable(text, 200).replace("$", r"\$")


def _word(column: str) -> str:
    return column.rsplit(".", 1)[-1].replace("_", " ")
