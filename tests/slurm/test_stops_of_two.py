"""Jobs of two tasks, stopped by SLURM in every way: ``make test-slurm``."""

from __future__ import annotations

from tests.slurm.cluster import MARKS, stop_in_every_way

pytestmark = MARKS


def test_jobs_of_two_tasks_that_slurm_stops_in_any_way_go_on_with_each_logger(tmp_path, start_sweep, two):
    whole = (two / "run" / "ticket.safetensors").read_bytes()
    stop_in_every_way(tmp_path, start_sweep, whole, devices=2)
