"""Loggers beside metrics.jsonl: W&B (offline unless told otherwise) and TensorBoard."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger


def check(choice: dict[str, Any]) -> None:
    """Raise ValueError if what the logger needs is not there, before anything is made."""
    if choice["name"] == "tensorboard" and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise ValueError("logger=tensorboard needs a package: pip install 'multiprize[tensorboard]'")
    if choice["name"] == "wandb" and choice["mode"] == "online":
        import wandb

        if not wandb.login(prompt=False):
            raise ValueError("logger.mode=online needs a W&B account: run wandb login, or leave it offline")


@contextmanager
def opened(directory: Path, config: dict[str, Any], *, enabled: bool) -> Iterator[list[Logger]]:
    """Lightning loggers of a run; closed with its exit code, so that a failed run shows as failed.

    Args:
        directory: of the run.
        config: plain, resolved.
        enabled: False in processes other than the first.
    """
    choice = config["logger"]
    if choice["name"] == "local" or not enabled:
        yield []
    elif choice["name"] == "tensorboard":
        yield [_tensorboard(directory)]
    else:
        import wandb

        logger = _wandb(directory, config)
        try:
            yield [logger]
        except BaseException:
            wandb.finish(exit_code=1)
            raise
        wandb.finish(exit_code=0)


def _tensorboard(directory: Path) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=directory, name="", version="tensorboard")


def _wandb(directory: Path, config: dict[str, Any]) -> Logger:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    choice = config["logger"]
    # offline artifacts would otherwise be staged outside the run
    os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = str(directory.resolve() / "wandb")
    (directory / "wandb").mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        mode=choice["mode"],
        project=choice["project"],
        entity=choice["entity"],
        group=choice["group"] or _sweep(config),
        tags=[*choice["tags"], *filter(None, (config["sweep"], config["budget"]))],
        job_type="train",
        name=directory.name,
        id=hashlib.sha1(str(directory.resolve()).encode()).hexdigest()[:8],
        save_dir=str(directory.resolve()),  # W&B's own process may have been started from another folder
        config=config,
        log_model=False,
        settings=wandb.Settings(silent=True),
    )


def _sweep(config: dict[str, Any]) -> str | None:
    """What the runs of one sweep share."""
    return f"{config['sweep']}-{config['budget'] or 'paper'}" if config["sweep"] else None


def finished(loggers: list[Logger], ticket_path: Path, row: dict[str, Any]) -> None:
    """Give the result and the ticket to W&B, where it logs: the row as summary, the file as an artifact."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            run = logger.experiment
            run.summary.update({key: value for key, value in row.items() if isinstance(value, (int, float, str))})
            artifact = wandb.Artifact(f"ticket-{run.id}", type="ticket")
            artifact.add_file(str(ticket_path))
            run.log_artifact(artifact)
