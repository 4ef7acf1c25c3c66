"""The launcher of ``hydra/launcher=slurm``. Hydra finds launchers in the package ``hydra_plugins`` only."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

with suppress(ImportError):  # Hydra reads this file on every start; the extra slurm has the package
    from hydra_plugins.hydra_submitit_launcher import submitit_launcher

    class SlurmLauncher(submitit_launcher.SlurmLauncher):  # type: ignore[misc]
        """Submitit's, but for the runs of a sweeper other than ours; see :mod:`mpt.multirun.other_sweepers`."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
            from mpt.multirun.other_sweepers import launch

            return launch(self, job_overrides)
