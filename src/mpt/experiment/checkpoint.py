"""Checkpoints that are whole or not there, one an epoch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

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
