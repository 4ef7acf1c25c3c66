"""The first lines of a run: where it is written, what computes, on which images, and what was chosen."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path

import lightning as L

from mpt.data import ImageData
from mpt.experiment.build import import_target
from mpt.experiment.trainer import has_native_bf16
from mpt.run.name import flat, purpose
from mpt.run.settings import Settings, dials, plain, spell
from mpt.words import count


def opening(settings: Settings, directory: Path, data: ImageData, trainer: L.Trainer) -> str:
    """The lines, without those of the layers."""
    images = f"{len(data.train):,} training images of {data.channels}x{data.image_size}x{data.image_size}"
    held_out = f", {len(data.val):,} held out" if data.val is not None else ""
    return "\n".join(
        [
            f"directory   {directory}",
            device_line(trainer),
            precision_line(settings),
            f"data        {settings.data.name}: {images} in {count(data.num_classes, 'class')}{held_out}, "
            f"{len(data.test):,} for testing",
            f"chosen      {' '.join(chosen(settings))}",
        ]
    )


def device_line(trainer: L.Trainer) -> str:
    """The line that says on what, and in how many processes, the run computes."""
    return f"device      {trainer.strategy.root_device.type}, {count(trainer.world_size, 'process')}"


def precision_line(settings: Settings) -> str:
    """The line that says in which precision the run computes."""
    precision = settings.trainer.precision
    faster = precision == "32-true" and has_native_bf16()
    hint = " (native bf16: trainer.precision=bf16-mixed was 1.6 to 1.9 times as fast on a CPU)" if faster else ""
    return f"precision   {precision}, evaluation 32-true{hint}"


def chosen(settings: Settings) -> Iterator[str]:
    """The options that differ from their defaults, among those on which the ticket depends, as they are typed."""
    values, choices = flat(plain(settings)), {"model": settings.model, "method": settings.method}
    for name, choice in choices.items():
        yield f"{name}={choice.name}"
        parameters = inspect.signature(import_target(name, choice.target)).parameters
        for key, value in choice.arguments.items():
            default = parameters[key].default if key in parameters else inspect.Parameter.empty
            if (list(default) if isinstance(default, tuple) else default) != value:
                yield f"{name}.{key}={_spell(value)}"
    for key, f in dials(type(settings)):
        if key in choices or purpose(key) not in ("result", "folder"):
            continue
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if key in values and values[key] != default:
            yield f"{key}={_spell(values[key])}".replace("data.name=", "data=").replace("optim.name=", "optim=")


def _spell(value: object) -> str:
    return spell(value).replace(", ", ",")
