"""Jobs of one task, stopped by SLURM in every way: ``make test-slurm``.

It is a file of its own because it waits more than it computes: files run side by side.
"""

from __future__ import annotations

from tests.slurm.cluster import MARKS, stop_in_every_way

pytestmark = MARKS


def test_jobs_that_slurm_stops_in_any_way_go_on_with_each_logger_and_the_sweeps_end_well(tmp_path, start_sweep, whole):
    stop_in_every_way(tmp_path, start_sweep, whole, devices=1, fresh=["wandb"])
