"""Checkpoints that are whole or not there, one an epoch."""

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
    """Writes a checkpoint beside itself, synced and renamed: Lightning's own is not atomic across file systems."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()  # torch.save on a full disk raises no OSError; writing bytes does
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())


def last_checkpoint(directory: Path) -> ModelCheckpoint:
    """``last.ckpt`` in ``directory``, after every epoch and its evaluation."""
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
    """``best.ckpt``: the network of the best epoch so far on held-out images, saved before ``last.ckpt`` of that epoch.

    Which epoch that is follows from the monitor's rows, which ``last.ckpt`` holds: a run killed between the two repeats
    the epoch and writes the same again.
    """

    def __init__(self, directory: Path, monitor: Monitor) -> None:
        self.path, self.monitor = directory / "best.ckpt", monitor

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        best = self.monitor.best("val/acc")
        if best is not None and best["epoch"] == trainer.current_epoch + 1:
            trainer.save_checkpoint(self.path)


def load_network(net: nn.Module, path: Path) -> None:
    """Give ``net`` the state that the checkpoint evaluates: the averaged one, where scores are averaged."""
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items()})
