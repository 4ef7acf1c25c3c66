"""Checkpoints, one per epoch, each written whole or not at all, and checked before anything is resumed from them.

A checkpoint is sealed: a flipped bit anywhere is noticed, which torch does not do. It names its run by the digest of
everything on which the ticket depends. Weights that the search does not train are those that the seed draws.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from mpt.experiment.monitor import Monitor
from mpt.files import DamagedError, check_seal, write_atomically
from mpt.search.conversion import Conversion
from mpt.search.methods import Method

RUN = "mpt_run"  # key of the digest of the run
_PARTS = {  # of Lightning's checkpoints, that a run resumes from
    **{"epoch": int, "global_step": int, "state_dict": dict, "loops": dict, "callbacks": dict},
    **{"optimizer_states": list, "lr_schedulers": list},
}


class WholeOrNothing(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it; Lightning's writer is not atomic on every file system.

    Args:
        run: digest of the run, :func:`mpt.run.name.run_digest`.
    """

    def __init__(self, run: str) -> None:
        self.run = run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()  # torch.save on a full disk raises no OSError; writing bytes does
        torch.save(checkpoint | {RUN: self.run}, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getbuffer(), seal=True)


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
    state = read_checkpoint(path)["state_dict"]
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items()})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint in ``path``, its tensors mapped from the file.

    Raises:
        OSError: it is missing, or cannot be read.
        ValueError: it is damaged, or no checkpoint.
    """
    try:
        check_seal(path)
    except DamagedError as error:
        reason = str(error).removeprefix(f"{path} ")
        raise ValueError(f"{path} is damaged: {_remedy(path)} (it {reason})") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, LookupError, TypeError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint: {_remedy(path)}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in _PARTS.items()):
        raise ValueError(f"{path} is not a whole checkpoint: {_remedy(path)}")
    return content


def check_checkpoint(path: Path, module: nn.Module, *, run: str) -> None:
    """Check that the run of ``module`` can be resumed from ``path``.

    Args:
        path: of the checkpoint.
        module: that Lightning trains, with the weights that the seed draws.
        run: digest of the run.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, of another run or network, or has other frozen weights.
    """
    content = read_checkpoint(path)
    if content.get(RUN) != run:
        raise ValueError(f"{path} is of a run with other settings: {_remedy(path)}")
    state, expected = content["state_dict"], module.state_dict()
    if {name: _kind(value) for name, value in state.items()} != {
        name: _kind(value) for name, value in expected.items()
    }:
        raise ValueError(f"{path} is of another network: {_remedy(path)}")
    for name, value in _frozen(module).items():
        if not torch.equal(state[name], value.cpu()):
            raise ValueError(f"{path} has other frozen weights in {name} than the seed draws: {_remedy(path)}")


def _kind(value: Any) -> tuple[Any, ...]:
    return (value.dtype, tuple(value.shape)) if isinstance(value, torch.Tensor) else (type(value),)


def _frozen(module: nn.Module) -> Mapping[str, torch.Tensor]:
    """The parameters of ``module`` that nothing changes after they are drawn."""
    conversions = [getattr(inner, "conversion", None) for inner in module.modules()]
    methods = [type(found.method) for found in conversions if isinstance(found, Conversion)]
    if any(method.update is not Method.update for method in methods):  # it may draw weights again
        return {}
    return {name: value for name, value in module.named_parameters() if not value.requires_grad}


def _remedy(path: Path) -> str:
    names = "it" if path.name == "last.ckpt" else f"{path.name} and last.ckpt"
    return f"remove {names} to start this run again"
