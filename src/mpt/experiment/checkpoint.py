"""Checkpoints, one per epoch, each written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from mpt.experiment.monitor import Monitor
from mpt.files import write_atomically


class WholeOrNothing(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it; Lightning's writer is not atomic on every file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()  # torch.save on a full disk raises no OSError; writing bytes does
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())


def last_checkpoint(directory: Path) -> ModelCheckpoint:
    """The callback that writes ``last.ckpt`` in ``directory`` after every epoch and its evaluation."""
    return ModelCheckpoint(
        dirpath=directory,
        filename="last",
        save_top_k=1,
        enable_version_counter=False,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        auto_insert_metric_name=False,
    )


class BestCheckpoint(Checkpoint):
    """Writes ``best.ckpt``, the network of the best epoch so far on held-out images, before that epoch's ``last.ckpt``.

    The monitor's rows, which ``last.ckpt`` holds, say which epoch is the best. A run that is killed between the two
    files therefore repeats the epoch and writes the same ``best.ckpt`` again.
    """

    def __init__(self, directory: Path, monitor: Monitor) -> None:
        self.path, self.monitor = directory / "best.ckpt", monitor

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        best = self.monitor.best("val/acc")
        if best is not None and best["epoch"] == trainer.current_epoch + 1:
            trainer.save_checkpoint(self.path)


def load_network(net: nn.Module, path: Path) -> None:
    """Load into ``net`` the state that the run evaluated: the averages, if scores are averaged."""
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items()})
