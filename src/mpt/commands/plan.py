"""``--dry-run`` of a single run: everything that the run would do is checked and printed, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import torch

import mpt
from mpt.commands.ticket import stand_in
from mpt.data.listing import listings
from mpt.experiment import loggers
from mpt.experiment.batches import check_batch
from mpt.experiment.build import check_side
from mpt.experiment.opening import device_line
from mpt.experiment.optim import build_optim, try_optim
from mpt.experiment.train import start_search
from mpt.experiment.trainer import build_trainer
from mpt.multirun.estimate import estimate, image_shape
from mpt.run.name import FOLDERS
from mpt.run.settings import FinetuneSettings, Settings
from mpt.run.status import state
from mpt.ticket.ticket import Ticket


def plan(settings: Settings, directory: Path) -> str:
    """State, directory, device, precision, data, layers and an estimate; the state alone of a run that is done.

    Raises:
        ValueError, OSError: what would stop the run before its first step, but for what only its images can tell.
    """
    name = state(directory).state
    lines = [f"{name:<11} {directory}"]
    if name == "done":
        return lines[0]
    loggers.check(settings.logger)
    try_optim(settings.optim, epochs=settings.epochs)
    return "\n".join([*lines, *_describe(settings, directory)])


def _describe(settings: Settings, directory: Path) -> list[str]:
    shape = image_shape(settings.data)
    if settings.data.name in FOLDERS and shape is None:
        data = settings.data
        listings(Path(str(data.root)), name=data.name, test_size=data.test_size)  # says what is missing
    table, first = _layers(settings, shape)
    trainer = build_trainer(settings, directory, num_images=shape[0] if shape else 1, first_epoch=first)
    images = _count(settings, shape) if shape else None
    check_batch(settings.batch, images=images, processes=trainer.world_size, parts=settings.optim.accumulate)
    return [
        device_line(trainer, settings),
        f"data        {_data(settings, shape)}",
        table,
        estimate([settings], directory.parent),
    ]


def _data(settings: Settings, shape: tuple[int, int, int, int] | None) -> str:
    data = settings.data
    where = f" in {data.root}{'' if Path(data.root).is_dir() else ' (not there yet)'}" if data.root else ""
    if shape is None:
        return f"{data.name}{where}"
    images = _count(settings, shape)
    return f"{data.name}{where}: {images:,} training images of {shape[1]}x{shape[2]}x{shape[2]} in {shape[3]} classes"


def _count(settings: Settings, shape: tuple[int, int, int, int]) -> int:
    """Training images of the data, of which ``shape`` is (images, channels, side, classes), held-out ones included."""
    return min(settings.data.train_size or shape[0], shape[0])


def _layers(settings: Settings, shape: tuple[int, int, int, int] | None) -> tuple[str, int]:
    """The table of layers, and the number of first epochs that give no ticket.

    The network is built, for images of ``shape``, and forgotten.
    """
    if isinstance(settings, FinetuneSettings):
        return str(Ticket.load(settings.ticket).table()), 0
    if shape is None:
        return "layers      they depend on the images, which are read when the run starts", 0
    check_side(shape[2], name=settings.model.name)
    method, _, _, net, _, _ = start_search(settings, stand_in(shape[1], shape[2], num_classes=shape[3]))
    build_optim(net, settings.optim, epochs=settings.epochs)
    with torch.no_grad():
        return str(mpt.layer_table(net)), method.unfinished_epochs
