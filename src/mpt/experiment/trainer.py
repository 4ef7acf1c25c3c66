"""Lightning's Trainer for one run, from its settings."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from mpt.experiment.averaging import ScoreAveraging
from mpt.experiment.checkpoint import BestCheckpoint, LastCheckpoint, WholeOrNothing
from mpt.experiment.monitor import Monitor
from mpt.phases import say, update
from mpt.processes import Group, group
from mpt.run.name import run_digest
from mpt.run.settings import Optim, Settings, Trainer


def build_trainer(settings: Settings, directory: Path, *, num_images: int, first_epoch: int) -> L.Trainer:
    """The trainer of a run in ``directory``.

    Args:
        settings: of the run.
        directory: where its checkpoints and metrics go.
        num_images: of the training split.
        first_epoch: number of epochs at the start whose masks are not tickets yet.

    Raises:
        ValueError: the machine does not have what ``settings.trainer`` asks for.
    """
    quieten()
    choice, optim = settings.trainer, settings.optim
    team = group()
    if team is None and choice.num_nodes > 1 and "MASTER_ADDR" not in os.environ:  # it would wait for half an hour
        raise ValueError(
            f"trainer.num_nodes={choice.num_nodes} needs processes on as many machines: start them with srun or "
            "torchrun, or set NODE_RANK, MASTER_ADDR and MASTER_PORT on each machine"
        )
    limit = choice.limit_batches
    num_images = min(num_images, limit * settings.batch) if limit else num_images
    monitor = Monitor(directory, num_images=num_images, show=choice.progress, first_epoch=first_epoch)
    try:
        trainer = L.Trainer(
            accelerator=choice.accelerator,
            devices=team.per_node if team else _devices(choice),
            num_nodes=team.nodes if team else choice.num_nodes,
            strategy=choice.strategy,
            precision=choice.precision,  # type: ignore[arg-type]
            max_epochs=settings.epochs,
            callbacks=[
                monitor,
                *_averaging(optim),
                *([BestCheckpoint(directory, monitor)] if settings.select == "best_val" else []),
                LastCheckpoint(directory, every=choice.checkpoint_every),
                *([Steps()] if choice.progress else []),
            ],
            accumulate_grad_batches=optim.accumulate,
            gradient_clip_val=optim.clip_grad_norm,
            sync_batchnorm=choice.sync_batchnorm,
            plugins=[WholeOrNothing(run_digest(settings)), _environment(team)],
            logger=False,
            default_root_dir=directory,
            limit_train_batches=limit * optim.accumulate if limit else 1.0,
            limit_val_batches=limit or 1.0,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,  # we log per epoch alone; a larger number makes Lightning warn of short epochs
            use_distributed_sampler=False,
        )
    except Exception as error:
        known = isinstance(error, (RuntimeError, TypeError, ValueError, ImportError)) or _is_misconfiguration(error)
        if not known:
            raise
        raise ValueError(_misfit(choice, str(error))) from error
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]  # ours stay
    if choice.precision == "16-mixed" and trainer.strategy.root_device.type == "cpu":
        raise ValueError(
            "trainer.precision=16-mixed needs a GPU: on a CPU choose trainer.precision=bf16-mixed or 32-true"
        )
    if choice.sync_batchnorm and trainer.strategy.root_device.type == "cpu":
        raise ValueError("trainer.sync_batchnorm=true needs accelerators: torch has it for GPUs only, not for the CPU")
    return trainer


class Steps(L.Callback):
    """Names the epoch and the step in the line of :mod:`mpt.phases`."""

    def __init__(self) -> None:
        self.left = ""  # of the run, when the epoch began

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        say("preparing the first step")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        left = monitor_of(trainer).whole(trainer.max_epochs)
        self.left = f", {left}" if left else ""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        update(f"{_epoch(trainer)}: step {batch_idx + 1:,} of {trainer.num_training_batches:,}{self.left}")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        say(f"{_epoch(trainer)}: measuring the accuracy")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        say(f"{_epoch(trainer)}: saving")


def _epoch(trainer: L.Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"


class Srun(SLURMEnvironment):
    """The tasks of one srun; :mod:`mpt.run.layout` compares their number with the settings.

    Lightning would put the job into the queue again by itself, from a checkpoint of the middle of an epoch: a run ends
    and goes on as :mod:`mpt.signals` says.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    def world_size(self) -> int:
        return int(os.environ["SLURM_STEP_NUM_TASKS"])

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """They fit: they are the numbers of the environment."""

    @staticmethod
    def _validate_srun_used() -> None: ...

    @staticmethod
    def _validate_srun_variables() -> None: ...


def _environment(team: Group | None) -> ClusterEnvironment:
    """Lightning's plug-in for whoever starts the processes. Left alone it would take any SLURM variable for tasks."""
    if team is None:
        return LightningEnvironment()
    return Srun() if team.starter == "srun" else TorchElasticEnvironment()


def _misfit(choice: Trainer, reason: str) -> str:
    """The sentence for a trainer that Lightning, for this ``reason``, does not build on this machine."""
    if "accelerator" in reason or "backend found" in reason or "torch_xla" in reason:
        return (
            f"trainer.accelerator={choice.accelerator} is not on this machine: choose trainer.accelerator=auto or cpu, "
            f"or run on a machine that has it"
        )
    if "strategy" in reason:
        return (
            f"trainer.strategy={choice.strategy} is unknown or needs other devices: choose trainer.strategy=auto or ddp"
        )
    if "devices" in reason or "gpu" in reason.lower():
        return (
            f"trainer.devices={choice.devices} does not fit this machine, which has "
            f"{torch.accelerator.device_count() if torch.accelerator.is_available() else 0} accelerators: choose "
            "trainer.devices=auto, or fewer"
        )
    return f"trainer={choice.name} does not fit this machine: {reason.splitlines()[0] if reason else 'no reason given'}"


def quieten() -> None:
    """Silence other libraries' start-up messages."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
    warnings.filterwarnings("ignore", message=".*(LeafSpec|AMP with fp16).*")
    warnings.filterwarnings(
        "ignore",
        module="lightning",
        message=".*(num_workers|GPU available|existing checkpoint|exists and is not empty|`srun` command).*",
    )


def monitor_of(trainer: L.Trainer) -> Monitor:
    """The monitor of the run that ``trainer`` trains."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, Monitor))  # type: ignore[attr-defined]


def has_native_bf16() -> bool:
    """True if this machine multiplies in bf16 natively: recent GPUs, and CPUs with AVX512-BF16."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def _is_misconfiguration(error: Exception) -> bool:
    return type(error).__name__ == "MisconfigurationException"


def _averaging(optim: Optim) -> list[L.Callback]:
    if optim.averaging == "none":
        return []
    return [ScoreAveraging(kind=optim.averaging, decay=optim.averaging_decay, start=optim.averaging_start)]


def _devices(choice: Trainer) -> Any:
    """``auto`` means one process on a CPU, where two would gain nothing."""
    if choice.devices == "auto" and (choice.accelerator == "cpu" or not torch.accelerator.is_available()):
        return 1
    return choice.devices
