"""Runs that another sweeper of Hydra, such as optuna, asks for on SLURM: submitted and awaited as those of our own.

Submitit's launcher would wait until SLURM's accounting says that the jobs have ended, and many clusters have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mpt.experiment.kinds import objective
from mpt.multirun.expand import Composer, Run
from mpt.multirun.sweep import check_processes, record_list, work
from mpt.run.name import run_name
from mpt.run.status import result


def launch(launcher: Any, overrides: Sequence[Sequence[str]]) -> list[Any]:
    """Run each of ``overrides`` as a job of SLURM, unless it is done; return Hydra's result of each, in their order.

    Args:
        launcher: Hydra's, with ``config``, ``hydra_context`` and ``task_function``.
        overrides: of each run.
    """
    from hydra.core.utils import JobReturn, JobStatus

    config, folder = launcher.config, Path(launcher.config.hydra.sweep.dir)
    composer = Composer(launcher.hydra_context.config_loader, config)
    one = ["trainer.devices=1"] if str(config.trainer.devices) == "auto" else []  # the job runs on another machine
    runs = []
    for each in ([*override, *one] for override in overrides):
        settings = composer.settings(each)
        check_processes(config, settings)
        runs.append(Run(tuple(each), settings, folder / run_name(settings)))
    sweeper = SimpleNamespace(config=config, hydra_context=launcher.hydra_context, launcher=launcher)
    unique = list({run.directory: run for run in runs}.values())
    refusals: dict[Path, str] = {}
    work(sweeper, unique, refusals, started=record_list(folder, unique))
    for directory, why in refusals.items():
        print(f"failed: {directory}: {why}", flush=True)
    values = [None if run.directory in refusals else objective(run.settings, result(run.directory)) for run in runs]
    return [
        JobReturn(overrides=run.overrides, _return_value=value, status=JobStatus.COMPLETED)
        for run, value in zip(runs, values, strict=True)
    ]
