"""The first five lines of a run: where it is written, what computes, on which images, what was chosen, and the time."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path

import lightning as L

from mpt.data import ImageData
from mpt.experiment.build import import_target
from mpt.experiment.monitor import whole_time
from mpt.experiment.trainer import has_native_bf16
from mpt.run.name import flat, purpose
from mpt.run.progress import finished_epochs
from mpt.run.result import read_metrics
from mpt.run.settings import Settings, dials, plain, spell
from mpt.words import count


def opening(settings: Settings, directory: Path, data: ImageData, trainer: L.Trainer) -> str:
    """Five lines; the layers follow. Without ``trainer.progress`` the one of the time is left out."""
    images = f"{len(data.train):,} training images of {data.channels}x{data.image_size}x{data.image_size}"
    held_out = f", {len(data.val):,} held out" if data.val is not None else ""
    return "\n".join(
        [
            f"directory   {directory}",
            device_line(trainer, settings),
            f"data        {settings.data.name}: {images} in {count(data.num_classes, 'class')}{held_out}, "
            f"{len(data.test):,} for testing",
            f"chosen      {' '.join(chosen(settings))}",
            *([f"time        {_time(directory, settings.epochs)}"] if settings.trainer.progress else []),
        ]
    )


def device_line(trainer: L.Trainer, settings: Settings) -> str:
    """The line that says on what, in how many processes and in which precision the run computes."""
    precision = settings.trainer.precision
    if precision != "32-true":
        precision += ", evaluation 32-true"
    elif has_native_bf16():
        precision += " (native bf16: trainer.precision=bf16-mixed was 1.6 to 1.9 times as fast on a CPU)"
    return f"device      {trainer.strategy.root_device.type}, {count(trainer.world_size, 'process')}, {precision}"


def _time(directory: Path, epochs: int) -> str:
    """What is known of the time before the first step: of an interrupted run, that of the epochs that it finished."""
    with contextlib.suppress(
        OSError, ValueError, LookupError, TypeError
    ):  # none has finished, or a file is damaged, which others report
        return whole_time(read_metrics(directory)[: finished_epochs(directory)], epochs)
    return "estimated after the first epoch" if epochs > 1 else "one epoch"


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
    if settings.distill is not None:
        yield f"distill={settings.distill}"
    for key, f in dials(type(settings)):
        if key in choices or purpose(key) not in ("result", "folder"):
            continue
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if key in values and values[key] != default:
            yield f"{key}={_spell(values[key])}".replace("data.name=", "data=").replace("optim.name=", "optim=")


def _spell(value: object) -> str:
    return spell(value).replace(", ", ",")
