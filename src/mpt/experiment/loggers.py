"""Loggers in addition to metrics.jsonl: W&B (offline by default) and TensorBoard, opened and closed.

W&B's environment variables count where no option says otherwise. In a sweep, ``WANDB_NAME`` and ``WANDB_RUN_ID`` do
not: every run has a name and an id of its own.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mpt.experiment.trackers import TensorBoard, Tracker, Wandb
from mpt.files import DISTRIBUTION
from mpt.phases import say
from mpt.run.settings import Logger as LoggerSettings
from mpt.run.settings import Settings, plain
from mpt.run.status import LIST, read_list
from mpt.signals import Interrupted, cause, unwind

KINDS = ("wandb", "tensorboard")


def check(choice: LoggerSettings) -> None:
    """Raise ValueError, before anything is written, if the logger lacks a package or an account."""
    if choice.tensorboard and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise ValueError(f"logger=tensorboard needs a package: pip install '{DISTRIBUTION}[tensorboard]'")
    if choice.wandb and choice.mode == "online":
        import wandb

        if not wandb.login(prompt=False):
            raise ValueError("logger.mode=online needs a W&B account: run wandb login, or use logger.mode=offline")


def asked_for(choice: LoggerSettings) -> list[str]:
    """The loggers, of ``KINDS``, that ``choice`` asks for; W&B in the mode ``disabled`` is none."""
    wandb = choice.wandb and choice.mode != "disabled"
    return [kind for kind, asked in zip(KINDS, (wandb, choice.tensorboard), strict=True) if asked]


@contextmanager
def open_loggers(
    directory: Path,
    settings: Settings,
    *,
    kinds: Sequence[str],
    job: str = "train",
    config: Mapping[str, Any] | None = None,
) -> Iterator[list[Tracker]]:
    """Open loggers of a run or a sweep; close them with its exit code, so that a failed run appears as failed.

    Args:
        directory: of the run or the sweep.
        settings: of the run, or of any run of the sweep.
        kinds: which loggers, of ``KINDS``; none in processes other than the first.
        job: what W&B calls this job: ``train``, or ``sweep``.
        config: what they record as the configuration; ``settings`` by default.
    """
    with _opened_tensorboard(directory, "tensorboard" in kinds) as others:
        if "wandb" not in kinds:
            yield [*others]
            return
        with _data_in(directory):
            say("starting W&B")
            import wandb

            logger = _wandb(directory, settings, job, plain(settings) if config is None else config)
            try:
                yield [logger, *others]
                wandb.finish(exit_code=0)
            except BaseException as error:
                # W&B's process may have died of a signal a moment before this one gets it
                patience = 0.0 if isinstance(error, ValueError) else 1.0
                interrupted = isinstance(cause(error, patience=patience), Interrupted)
                if interrupted:
                    _abandon_wandb()
                else:
                    with suppress(Exception):
                        wandb.finish(exit_code=1)
                raise


def log_row(loggers: Sequence[Any], row: Mapping[str, Any]) -> None:
    """Log the metrics of an epoch, a row of ``metrics.jsonl``."""
    metrics = {name: value for name, value in row.items() if "/" in name and value is not None}
    for logger in loggers:
        logger.log_metrics(metrics, step=row["epoch"])


def wandb_id(directory: Path) -> str:
    """The id of a run or a sweep in W&B, which follows from its directory."""
    own = None if is_in_sweep(directory) else os.environ.get("WANDB_RUN_ID")
    return own or hashlib.sha1(str(directory.resolve()).encode()).hexdigest()[:8]


def wandb_folder(directory: Path) -> Path:
    """The folder of the offline recordings of a run or a sweep; ``WANDB_DIR`` chooses another."""
    return Path(os.environ.get("WANDB_DIR") or directory).resolve() / "wandb"


def is_in_sweep(directory: Path) -> bool:
    """Whether ``directory`` is that of a sweep, or of one of its runs."""
    return (directory / LIST).is_file() or directory.name in read_list(directory.parent)


@contextmanager
def _opened_tensorboard(directory: Path, wanted: bool) -> Iterator[list[TensorBoard]]:
    """TensorBoard's logger, with new files of events: a resumed run logs its earlier epochs again."""
    if not wanted:
        yield []
        return
    for path in (directory / "tensorboard").glob("events.out.tfevents.*"):
        path.unlink()
    logger = TensorBoard(save_dir=directory, name="", version="tensorboard", default_hp_metric=False)
    try:
        yield [logger]
    finally:
        logger.close()


def _abandon_wandb() -> None:
    """End W&B after a signal, of which its own process may have died; it prints nothing about that."""
    import wandb

    unwind()  # while W&B waits for its process, the signal must not come again
    with redirect_stderr(io.StringIO()):
        with suppress(Exception):
            if wandb.run is not None:
                wandb.run.mark_preempting()
        with suppress(Exception):
            wandb.finish(exit_code=1)
        with suppress(Exception, SystemExit):  # now, not at the exit of this process; it exits with the other's status
            wandb.teardown(exit_code=1)


@contextmanager
def _data_in(directory: Path) -> Iterator[None]:
    """Let W&B keep offline artifacts in the run's directory; it would stage them outside."""
    folder = wandb_folder(directory)
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR") if name not in os.environ]
    os.environ.update(dict.fromkeys(names, str(folder)))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)


def _wandb(directory: Path, settings: Settings, job: str, config: Mapping[str, Any]) -> Wandb:
    import wandb

    choice, given = settings.logger, os.environ.get
    tags = [*choice.tags, *(given("WANDB_TAGS") or "").split(","), settings.sweep, settings.budget]
    return Wandb(
        mode=choice.mode,
        project=choice.project,
        entity=choice.entity,
        group=choice.group or _sweep(settings),
        tags=list(dict.fromkeys(filter(None, tags))),
        job_type=given("WANDB_JOB_TYPE") or job,
        name=(None if is_in_sweep(directory) else given("WANDB_NAME")) or directory.resolve().name,
        id=wandb_id(directory),
        resume=given("WANDB_RESUME") or "allow",
        save_dir=str(wandb_folder(directory).parent),  # W&B's own process may have started in another folder
        config=dict(config),
        log_model=False,
        settings=wandb.Settings() if given("WANDB_SILENT") else wandb.Settings(silent=True),
    )


def _sweep(settings: Settings) -> str | None:
    """The group that the runs of one sweep share."""
    return f"{settings.sweep}-{settings.budget or 'paper'}" if settings.sweep else None
