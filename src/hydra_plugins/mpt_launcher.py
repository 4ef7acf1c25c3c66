"""The launcher of ``hydra/launcher=slurm``. Hydra finds launchers in the package ``hydra_plugins`` only.

Hydra reads this file at every start. It borrows from submitit's launcher (the extra slurm) only when there is work.
"""

from collections.abc import Sequence
from typing import Any

from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf


class SlurmLauncher(Launcher):  # type: ignore[misc]
    """Submitit's, but for the runs of a sweeper other than ours; see :mod:`mpt.multirun.other_sweepers`."""

    def __init__(self, **params: Any) -> None:
        containers = {k: OmegaConf.to_container(v, resolve=True) for k, v in params.items() if OmegaConf.is_config(v)}
        self.params = params | containers

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        from mpt.multirun.other_sweepers import launch

        return launch(self, job_overrides)

    def __call__(self, *arguments: Any) -> Any:
        """In a job: run it, as submitit's launcher does."""
        from mpt.run.peers import meet

        meet()
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

        return BaseSubmititLauncher.__call__(self, *arguments)

    def checkpoint(self, *arguments: Any, **options: Any) -> Any:
        """In a job that reaches its limit: what is submitted again, as by submitit's launcher."""
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

        return BaseSubmititLauncher.checkpoint(self, *arguments, **options)
