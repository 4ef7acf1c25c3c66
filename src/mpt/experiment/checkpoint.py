"""Checkpoints, one per epoch or fewer, each written whole or not at all, and checked before a run resumes from them.

A checkpoint is sealed: a flipped bit anywhere is noticed, which torch does not do. It names its run by the digest of
everything on which the ticket depends, and carries the digest of its own outline: one that was altered or lost a part,
and was sealed again, is noticed too. Weights that the search does not train are those that the seed draws.
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from mpt.experiment.monitor import Monitor
from mpt.files import DamagedError, check_seal, digest, write_atomically
from mpt.search.conversion import Conversion
from mpt.search.methods import Method

PARTS = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks")
RUN, OUTLINE = "mpt_run", "mpt_outline"  # keys of the digests of the run, and of the checkpoint's outline


class WholeOrNothing(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it; Lightning's writer is not atomic on every file system.

    Args:
        run: digest of the run, :func:`mpt.run.name.run_digest`.
    """

    def __init__(self, run: str) -> None:
        self.run = run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()  # torch.save on a full disk raises no OSError; writing bytes does
        whole = checkpoint | {RUN: self.run}
        torch.save(whole | {OUTLINE: digest(_outline(whole).encode())}, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getbuffer(), seal=True)


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` in ``directory`` after every ``every``-th epoch and its evaluation, and after the last."""

    def __init__(self, directory: Path, *, every: int) -> None:
        self.path, self.every = directory / "last.ckpt", every

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if done % self.every == 0 or done == trainer.max_epochs:
            trainer.save_checkpoint(self.path)


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


def _outline(value: Any) -> str:
    """All of a checkpoint as text, the values of a tensor as their CRC-32."""
    if isinstance(value, torch.Tensor):
        values = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        return f"{value.dtype} {tuple(value.shape)} {zlib.crc32(values):08x}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key!r}:{_outline(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_outline, value)) + "]"
    return repr(value) if isinstance(value, (bool, int, float, str, type(None))) else type(value).__name__


def load_network(net: nn.Module, path: Path, *, run: str, epoch: int) -> None:
    """Load into ``net`` the state that the run evaluated: the averages, if scores are averaged.

    Args:
        net: with the weights that the seed draws, its scores of any value.
        path: of the checkpoint.
        run: digest of the run.
        epoch: of the checkpoint, from 1.

    Raises:
        OSError, ValueError: as :func:`check_checkpoint`; or the checkpoint is missing, or of another epoch.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing: remove last.ckpt to start this run again")
    content = check_checkpoint(path, net, run=run)
    if content["epoch"] + 1 != epoch:
        raise ValueError(f"{path} is of epoch {content['epoch'] + 1} instead of {epoch}: {_remedy(path)}")
    net.load_state_dict({name.removeprefix("net."): value for name, value in content["state_dict"].items()})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint in ``path``, its tensors mapped from the file.

    Raises:
        OSError: it is missing, or cannot be read.
        ValueError: it is damaged, or no checkpoint.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file: {_remedy(path)}")
    try:
        check_seal(path)
    except DamagedError as error:
        reason = str(error).removeprefix(f"{path} ")
        raise ValueError(f"{path} is damaged: {_remedy(path)} (it {reason})") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, LookupError, TypeError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint: {_remedy(path)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{path} is not a whole checkpoint: {_remedy(path)}")
    return content


def check_checkpoint(path: Path, net: nn.Module, *, run: str) -> dict[str, Any]:
    """Check that the run of ``net`` can be resumed from ``path``; return the content.

    Args:
        path: of the checkpoint.
        net: with the weights that the seed draws, its scores of any value.
        run: digest of the run.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, of another run or network, lacks a part, or has other frozen weights.
    """
    content = read_checkpoint(path)
    if content.get(RUN) != run:
        raise ValueError(f"{path} is of a run with other settings: {_remedy(path)}")
    state = content["state_dict"]
    expected = {f"net.{name}": _kind(value) for name, value in net.state_dict().items()}
    if {name: _kind(value) for name, value in state.items()} != expected:
        raise ValueError(f"{path} is of another network: {_remedy(path)}")
    for name, value in _frozen(net).items():
        if not torch.equal(state[f"net.{name}"], value.cpu()):
            raise ValueError(f"{path} has other frozen weights in {name} than the seed draws: {_remedy(path)}")
    whole = all(name in content and content[name] not in ([], {}) for name in PARTS)
    if not whole or content.pop(OUTLINE, None) != digest(_outline(content).encode()):
        raise ValueError(f"{path} is not a whole checkpoint: {_remedy(path)}")
    return content


def _kind(value: Any) -> tuple[Any, ...]:
    return (value.dtype, tuple(value.shape)) if isinstance(value, torch.Tensor) else (type(value),)


def _frozen(net: nn.Module) -> Mapping[str, torch.Tensor]:
    """The parameters of ``net`` that nothing changes after they are drawn."""
    conversions = [getattr(inner, "conversion", None) for inner in net.modules()]
    methods = [type(found.method) for found in conversions if isinstance(found, Conversion)]
    if any(method.update is not Method.update for method in methods):  # it may draw weights again
        return {}
    return {name: value for name, value in net.named_parameters() if not value.requires_grad}


def _remedy(path: Path) -> str:
    names = "it" if path.name == "last.ckpt" else f"{path.name} and last.ckpt"
    return f"remove {names} to start this run again"
