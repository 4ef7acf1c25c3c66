"""A sweep is recorded as a whole, with its table and its figure, and its finished runs as well."""

from __future__ import annotations

import pytest

from tests.console import SMALL, command, results
from tests.recordings import events, offline

AXES = (*SMALL, "epochs=1", "prune=0.5,0.8", "hydra.mode=MULTIRUN", "hydra.sweep.dir=runs/own")


@pytest.mark.slow
def test_a_finished_sweep_is_replayed_into_tensorboard_once(tmp_path):
    command("train", *AXES, cwd=tmp_path)
    folder = tmp_path / "runs" / "own"
    for words in ("recorded for TensorBoard in", "recorded before: for TensorBoard in"):
        assert words in command("train", *AXES, "logger=tensorboard", cwd=tmp_path).stdout
        for name in results(folder):
            assert len(events(folder / name).Scalars("test/acc")) == 1
        read = events(folder)
        assert len(read.Images("sweep/figure")) == 1
        assert read.Scalars("result/done")[0].value == 2
        assert len(read.Tensors("sweep/runs/text_summary")[0].tensor_proto.string_val[0].splitlines()) == 4
    command("train", *AXES, "seed=1", "logger=tensorboard", cwd=tmp_path)  # more runs: recorded anew
    assert events(folder).Scalars("result/done")[0].value == 4


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wandb_gets_one_run_of_the_sweep_with_the_table_of_its_runs_and_its_figure(tmp_path):
    environment = {"WANDB_RUN_ID": "same", "WANDB_NAME": "same", "WANDB_RUN_GROUP": "mine"}
    command("train", *AXES, "logger=wandb", cwd=tmp_path, environment=environment)
    folder = tmp_path / "runs" / "own"
    (read,) = offline(folder)
    columns, rows = read.table("sweep/runs")
    found = results(folder)
    assert {row[0]: row[columns.index("test_acc")] for row in rows} == {
        name: pytest.approx(row["test_acc"]) for name, row in found.items()
    }
    assert read.picture("sweep/figure").shape[2] == 3
    assert (read.summary["runs"], read.summary["done"]) == (2, 2)
    assert read.summary["best_test_acc"] == max(row["test_acc"] for row in found.values())
    assert (read.run["job_type"], read.run["display_name"], read.run["run_group"]) == ("sweep", "own", "mine")
    runs = [offline(folder / name)[0].run for name in found]
    assert {run["display_name"] for run in runs} == set(found)
    assert len({run["run_id"] for run in [*runs, read.run]}) == 3
