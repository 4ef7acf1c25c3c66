"""Loggers in addition to metrics.jsonl: W&B (offline by default) and TensorBoard."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from mpt.files import DISTRIBUTION
from mpt.run.settings import Logger as LoggerSettings
from mpt.run.settings import Settings, plain
from mpt.signals import Interrupted, cause


def check(choice: LoggerSettings) -> None:
    """Raise ValueError, before anything is written, if the logger lacks a package or an account."""
    if choice.tensorboard and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise ValueError(f"logger=tensorboard needs a package: pip install '{DISTRIBUTION}[tensorboard]'")
    if choice.wandb and choice.mode == "online":
        import wandb

        if not wandb.login(prompt=False):
            raise ValueError("logger.mode=online needs a W&B account: run wandb login, or use logger.mode=offline")


@contextmanager
def open_loggers(directory: Path, settings: Settings, *, enabled: bool) -> Iterator[list[Logger]]:
    """Open the Lightning loggers of a run; close them with its exit code, so that a failed run appears as failed.

    Args:
        directory: of the run.
        settings: of the run.
        enabled: False in processes other than the first.
    """
    choice = settings.logger
    others = [_tensorboard(directory)] if choice.tensorboard and enabled else []
    if not (choice.wandb and enabled):
        yield others
    else:
        import wandb

        logger = _wandb(directory, settings)
        try:
            yield [logger, *others]
        except BaseException as error:
            interrupted = isinstance(cause(error), Interrupted)
            with suppress(Exception):  # W&B's process may have died of the same signal
                if wandb.run is not None and interrupted:
                    wandb.run.mark_preempting()
                wandb.finish(exit_code=1)
            if interrupted:  # here, since at the end of this process W&B would print that it lost the other one
                with suppress(Exception):
                    wandb.teardown(exit_code=1)
            raise
        wandb.finish(exit_code=0)


def _tensorboard(directory: Path) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=directory, name="", version="tensorboard")


def _wandb(directory: Path, settings: Settings) -> Logger:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    choice = settings.logger
    # otherwise W&B would stage offline artifacts outside the run
    os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = str(directory.resolve() / "wandb")
    (directory / "wandb").mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        mode=choice.mode,  # type: ignore[arg-type]
        project=choice.project,
        entity=choice.entity,
        group=choice.group or _sweep(settings),
        tags=[*choice.tags, *filter(None, (settings.sweep, settings.budget))],
        job_type="train",
        name=directory.name,
        id=hashlib.sha1(str(directory.resolve()).encode()).hexdigest()[:8],
        save_dir=str(directory.resolve()),  # W&B's own process may have started in another folder
        config=plain(settings),
        log_model=False,
        settings=wandb.Settings(silent=True),
    )


def _sweep(settings: Settings) -> str | None:
    """The group that the runs of one sweep share."""
    return f"{settings.sweep}-{settings.budget or 'paper'}" if settings.sweep else None


def log_result(loggers: list[Logger], path: Path, result: dict[str, Any]) -> None:
    """Send ``result`` to W&B as the summary and the ticket at ``path`` as an artifact, if W&B is among ``loggers``."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            run = logger.experiment
            run.summary.update({key: value for key, value in result.items() if isinstance(value, (int, float, str))})
            artifact = wandb.Artifact(f"ticket-{run.id}", type="ticket")
            artifact.add_file(str(path))
            run.log_artifact(artifact)
