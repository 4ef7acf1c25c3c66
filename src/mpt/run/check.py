"""Checks of a configuration and of its settings: every key is known, every value is set and in its range."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mpt.run.name import FOLDERS
from mpt.run.result import NUMBERS
from mpt.run.settings import FinetuneSettings, Settings, group_class, spell

OPEN = ("model", "method")  # groups whose other keys are arguments of the function or class that their target names


def check_keys(config: DictConfig, schema: type, *, prefix: str = "") -> None:
    """Raise ValueError in one sentence for a key that ``schema`` does not have, or for a value that is not set."""
    known = {f.name: f for f in fields(schema) if f.metadata["of"] != "input"}
    inputs = {f.name for f in fields(schema)} - known.keys()
    for key in map(str, config):
        if key not in known and not (key in inputs and config[key] is None):
            raise ValueError(f"there is no option {prefix}{key}: take one of {', '.join(known)}")
    for name, f in known.items():
        if OmegaConf.is_missing(config, name):
            raise ValueError(f"{prefix}{name} ({f.metadata['meaning']}) is not set: set it, as in {prefix}{name}=VALUE")
        if nested := group_class(f):
            check_keys(config[name], nested, prefix=f"{prefix}{name}.")
        elif name in OPEN and isinstance(config[name], DictConfig):
            _check_named(config[name], name)


def check_values(settings: Any, *, prefix: str = "") -> None:
    """Raise ValueError in one sentence for a value out of its range, or for values that contradict each other."""
    for f in fields(settings):
        value, valid = getattr(settings, f.name), f.metadata["valid"]
        if group_class(f):
            check_values(value, prefix=f"{prefix}{f.name}.")
        elif isinstance(value, list) and (odd := [entry for entry in value if isinstance(entry, (list, dict))]):
            raise ValueError(f"{prefix}{f.name} is a list of single values, as in [a, b], and holds {spell(odd[0])}")
        elif valid and not (value is None and f.default is None) and not valid.accepts(value):
            is_or = "is" if valid.words.startswith("the ") else "must be"
            finite = " and finite" if isinstance(value, float) and math.isinf(value) else ""
            told = prefix == "logger." and f.name == "mode" and os.environ.get("WANDB_MODE") == value
            source = " of the environment variable WANDB_MODE" if told else ""
            raise ValueError(f"{prefix}{f.name} {is_or} {valid.words}{finite}, got {spell(value)}{source}")
        elif isinstance(value, int) and abs(value) >= 2**63:  # a file of the run could not hold it
            raise ValueError(f"{prefix}{f.name} must be below 2^63, got {spell(value)}")
        elif isinstance(value, float) and abs(value) > 1e30:  # a float32 could not hold it, or its square
            raise ValueError(f"{prefix}{f.name} must be below 1e30, got {spell(value)}")
    if isinstance(settings, Settings):
        _check_together(settings)
    elif getattr(settings, "model", settings) is None and settings.width != 1:
        raise ValueError(
            f"width belongs to a network that model= names: give model=, or leave width={settings.width:g} out"
        )


_DOWNLOADED = ("cifar10", "cifar100", "mnist", "fashion_mnist")


def _unknown(settings: Settings) -> str:
    """The gains of a method that has no option for them: those of a class of the user's own may be learned."""
    return "layer" if settings.method.target.startswith("mpt.") else "learned"


_EFFECTIVE: list[tuple[str, Callable[[Any], bool], str]] = [  # options, when they have an effect, and with what
    ("spline_t", lambda s: s.binary_activations, "binary_activations=true"),
    ("optim.momentum optim.nesterov", lambda s: s.optim.name == "sgd" and not s.optim._target_, "optim=sgd"),
    ("optim.milestones optim.gamma", lambda s: s.optim.schedule == "multi_step", "optim.schedule=multi_step"),
    ("optim.averaging_decay", lambda s: s.optim.averaging == "ema", "optim.averaging=ema"),
    ("optim.averaging_start", lambda s: s.optim.averaging != "none", "optim.averaging=ema or swa"),
    ("optim.gain_lr", lambda s: s.method.arguments.get("gains", _unknown(s)) == "learned", "method.gains=learned"),
    ("optim.decay_scores optim.decay_batchnorm", lambda s: s.optim.weight_decay > 0, "optim.weight_decay"),
    ("distill_weight distill_temperature", lambda s: s.distill is not None, "distill"),
    ("data.noise_probability", lambda s: s.data.noise_std > 0, "data.noise_std"),
    ("data.num_classes data.num_images data.channels", lambda s: s.data.name == "synthetic", "data=synthetic"),
    (
        "data.stream data.cache data.resized_crop data.test_size",
        lambda s: s.data.name in FOLDERS,
        "data=image_folder or imagenet",
    ),
    ("data.root", lambda s: s.data.name in FOLDERS + _DOWNLOADED, "data that are read from files"),
    ("data.download", lambda s: s.data.name in _DOWNLOADED, "data that can be downloaded"),
    ("logger.project logger.entity logger.group logger.tags logger.mode", lambda s: s.logger.wandb, "logger=wandb"),
]


def check_given(settings: Any, keys: Collection[str]) -> None:
    """Raise ValueError for an option of the command line, which sets ``keys``, that has no effect with ``settings``.

    ``settings`` are those of a run, or of another command that has ``data``.
    """
    of_a_run = isinstance(settings, Settings)
    for names, has_effect, words in _EFFECTIVE:
        given = [name for name in names.split() if name in keys and (of_a_run or name.startswith("data."))]
        if given and not has_effect(settings):
            raise ValueError(f"{given[0]} has an effect only with {words}: leave it out, or choose that")
    if not of_a_run:
        _check_measured(settings, keys)
        return
    _check_labels(settings, keys)
    logger = settings.logger
    if "logger.name" in keys and logger.name != "local" and not getattr(logger, logger.name):
        raise ValueError(f"logger.name only names a choice: write logger={logger.name}")


_OF_TRAINING = ("crop", "flip", "augment", "noise_std", "noise_probability")


def _check_measured(settings: Any, keys: Collection[str]) -> None:
    """Raise ValueError for an option of training images that a command which trains nothing does not use."""
    if given := [name for name in _OF_TRAINING if f"data.{name}" in keys]:
        raise ValueError(f"data.{given[0]} changes images in training, and this command trains nothing: leave it out")
    fits = getattr(settings, "form", None) == "binary" and settings.fit > 0
    if not (fits or getattr(settings, "control", None)) and (
        given := [name for name in ("train_size", "val_size") if f"data.{name}" in keys]
    ):
        raise ValueError(
            f"data.{given[0]} chooses training images, and this command looks at test images alone: leave it out"
        )


def _check_labels(settings: Settings, keys: Collection[str]) -> None:
    """Raise ValueError for a name on the command line that would label another choice than the one that computes."""
    zoos = ("mpt.backbones.torchvision", "mpt.backbones.timm")  # whose networks have names
    for group in ("model", "method", "data", "trainer"):
        choice, name = getattr(settings, group), f"{group}.name"
        target = getattr(choice, "target", "mpt.")
        if name not in keys or f"{group}.target" in keys or target.rpartition(".")[2] == choice.name:
            continue
        if target.startswith("mpt.") and target not in zoos:
            raise ValueError(f"{name} comes with the choice of {group}: write {group}={choice.name} to choose another")


def _check_together(settings: Settings) -> None:
    """Raise ValueError if several values contradict each other."""
    optim = settings.optim
    if optim._target_ is None and optim.name not in ("sgd", "adam", "adamw"):
        raise ValueError(f"optim.name must be sgd, adam or adamw, got {optim.name}: choose one, or give optim._target_")
    own = ["lr", "weight_decay", "params", *([] if optim._target_ else ["momentum", "nesterov"])]
    if given := [name for name in own if name in (optim.arguments or {})]:
        raise ValueError(
            f"optim.arguments holds other arguments of the optimizer, and {given[0]} is none of them: "
            f"{'leave it out' if given[0] == 'params' else f'write optim.{given[0]}='}"
        )
    tuned, held_out = isinstance(settings, FinetuneSettings), settings.data.val_size > 0
    lacking = ([] if tuned else ["test_acc_before"]) + ([] if held_out else ["val_acc"])
    numbers = [name for name in NUMBERS if name not in lacking]
    if settings.objective and settings.objective not in numbers:
        raise ValueError(f"objective={settings.objective} is no number of the result: take one of {', '.join(numbers)}")
    if optim.nesterov and optim.momentum == 0:
        raise ValueError("optim.nesterov looks ahead along the momentum, which is 0: set optim.momentum")
    if optim.schedule == "multi_step" and not optim.milestones:
        raise ValueError("optim.schedule=multi_step needs its epochs: for instance optim.milestones=[100,150]")
    if optim.warmup and not isinstance(optim.schedule, str):
        raise ValueError("optim.warmup has no effect on your own schedule: set it to 0 and let the schedule warm up")
    if optim.averaging != "none" and optim.averaging_start >= settings.epochs:
        raise ValueError(
            f"optim.averaging_start is the number of epochs before the average begins and must be below "
            f"epochs={settings.epochs}, got {optim.averaging_start}"
        )
    if settings.batch % optim.accumulate:
        raise ValueError(
            f"batch must be divisible by optim.accumulate, got {settings.batch} in {optim.accumulate} parts"
        )
    if settings.select == "best_val" and settings.data.val_size == 0:
        raise ValueError(
            "select=best_val needs held-out images, because test images never choose an epoch: set data.val_size"
        )
    if settings.data.name in FOLDERS and not settings.data.root:
        raise ValueError(f"data={settings.data.name} needs data.root=<folder>, the folder that holds its pictures")
    if settings.budget and not settings.sweep:
        raise ValueError("budget is the size of an experiment: name the experiment with sweeps=<name>")


def _check_named(group: DictConfig, name: str) -> None:
    for key in ("name", "target"):
        if key not in group or OmegaConf.is_missing(group, key):
            if key == "target":
                raise ValueError(f"the file of the chosen {name} has no target: add one, as in target: module.function")
            raise ValueError(f"{name}.{key} is not set: set it, for instance {name}.{key}=resnet18")
        if not isinstance(group[key], str):
            raise ValueError(f"{name}.{key} must be text, got {group[key]!r}")
