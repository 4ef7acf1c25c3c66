"""Jobs of a sweep on SLURM: what each of them asks for, and their submission, which waits for none of them."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from mpt.multirun.expand import Run
from mpt.run.queue import describe_partition, record_jobs

_CPUS = 8  # of a task, at most, unless hydra.launcher.cpus_per_task says otherwise


def is_slurm(master: DictConfig) -> bool:
    """Whether the launcher of a sweep submits to SLURM."""
    return "Slurm" in str(master.hydra.launcher.get("_target_"))


def check_installed() -> None:
    """ValueError if this machine has no SLURM."""
    if shutil.which("sbatch") is None:
        raise ValueError(
            "hydra/launcher=slurm needs SLURM's sbatch, which is not here: give the command on a login node"
        )


def complete(master: DictConfig, runs: Sequence[Run], folder: Path) -> None:
    """Fill in what the launcher's settings leave open: CPUs and GPUs that the partition has, and the job's name."""
    launcher = master.hydra.launcher
    partition = describe_partition(launcher.partition)
    tasks = int(launcher.tasks_per_node)
    sweep = f"{master.sweep}-{master.budget or 'paper'}" if master.get("sweep") else folder.name
    with open_dict(launcher):
        if launcher.cpus_per_task is None and not launcher.cpus_per_gpu:
            launcher.cpus_per_task = min(_CPUS, max(1, partition[0] // tasks)) if partition else 1
        has_gpus = partition is not None and partition[1]
        asked = launcher.gpus_per_node is not None or launcher.gpus_per_task or launcher.gres
        if has_gpus and not asked and any(run.settings.trainer.accelerator != "cpu" for run in runs):
            launcher.gpus_per_node = tasks
        launcher.name = runs[0].directory.name if len(runs) == 1 else sweep


def submit(launcher: Any, runs: Sequence[Run], overrides: Sequence[Sequence[str]], folder: Path) -> None:
    """Submit each of ``runs`` as a job with its ``overrides``, and record the ids.

    The launcher of hydra-submitit-launcher does the same, and then waits for accounting to say that the jobs ended.

    Raises:
        ValueError: SLURM refuses the jobs.
    """
    import submitit
    from hydra.core.singleton import Singleton
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    folder.mkdir(parents=True, exist_ok=True)
    own = dict(launcher.params)
    executor = submitit.AutoExecutor(
        folder=own.pop("submitit_folder"), cluster="slurm", slurm_max_num_timeout=own.pop("max_num_timeout")
    )
    shared = BaseQueueConf.__dataclass_fields__
    executor.update_parameters(**{key if key in shared else f"slurm_{key}": value for key, value in own.items()})
    arguments = [
        (list(override), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
        for number, override in enumerate(overrides)
    ]
    try:
        with redirect_stderr(io.StringIO()):  # sbatch's reasons, which the error holds too
            jobs = executor.map_array(launcher, *zip(*arguments, strict=True))
    except submitit.core.utils.FailedJobError as error:
        raise ValueError(_refusal(str(error))) from error
    record_jobs(folder, {run.directory.name: job.job_id for run, job in zip(runs, jobs, strict=True)})
    print(f"submitted {len(jobs)} to SLURM: {', '.join(job.job_id for job in jobs[:8])}", flush=True)


def _refusal(text: str) -> str:
    """The sentence for what sbatch said when it refused a job."""
    reasons = re.findall(r"(?m)^sbatch: error: (?:Batch job submission failed: )?(.+)$", text) or [text.strip()]
    return f"SLURM refuses the job ({'; '.join(reasons)}): change hydra.launcher.*; sinfo shows what there is"
