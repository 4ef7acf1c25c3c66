"""Checks of a configuration and of its settings: every key is known, every value is set and in its range."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mpt.run.settings import Settings, group_class, spell

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
        elif valid and not (value is None and f.default is None) and not valid.accepts(value):
            is_or = "is" if valid.words.startswith("the ") else "must be"
            finite = " and finite" if isinstance(value, float) and math.isinf(value) else ""
            raise ValueError(f"{prefix}{f.name} {is_or} {valid.words}{finite}, got {spell(value)}")
    if isinstance(settings, Settings):
        _check_together(settings)


def _check_together(settings: Settings) -> None:
    """Raise ValueError if several values contradict each other."""
    optim = settings.optim
    if optim._target_ is None and optim.name not in ("sgd", "adam", "adamw"):
        raise ValueError(f"optim.name must be sgd, adam or adamw, got {optim.name}: choose one, or give optim._target_")
    if optim.nesterov and optim.momentum == 0:
        raise ValueError("optim.nesterov looks ahead along the momentum, which is 0: set optim.momentum")
    if optim.schedule == "multi_step" and not optim.milestones:
        raise ValueError("optim.schedule=multi_step needs its epochs: for instance optim.milestones=[100,150]")
    if optim.warmup and not isinstance(optim.schedule, str):
        raise ValueError("optim.warmup has no effect on your own schedule: set it to 0 and let the schedule warm up")
    if optim.averaging != "none" and optim.averaging_start >= settings.epochs:
        raise ValueError(
            f"optim.averaging_start is the first epoch, from 0, that is averaged, and must be below "
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
    if settings.budget and not settings.sweep:
        raise ValueError("budget is the size of an experiment: name the experiment with sweeps=<name>")


def _check_named(group: DictConfig, name: str) -> None:
    for key in ("name", "target"):
        if key not in group or OmegaConf.is_missing(group, key):
            raise ValueError(f"{name}.{key} is not set: set it, for instance {name}.{key}=resnet18")
        if not isinstance(group[key], str):
            raise ValueError(f"{name}.{key} must be text, got {group[key]!r}")
