"""What a logger gets of a sweep: the table of its runs, and its figure."""

from __future__ import annotations

import numpy as np
import pytest

from mpt.pages.sweep import runs_table, sweep_figure
from mpt.run.status import states
from tests.console import SMALL, command, read_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    axes = ["prune=0.5,0.8", "optim.lr=0.1,0.2", "hydra.mode=MULTIRUN", f"hydra.sweep.dir={folder}"]
    command("train", *SMALL, "epochs=1", *axes, cwd=folder.parent)
    return folder


@pytest.mark.slow
def test_the_table_has_every_run_with_what_tells_it_apart_and_its_numbers(folder):
    head, rows = runs_table(states(folder))
    assert head[:7] == ["run", "state", "model.name", "method.name", "prune", "width", "seed"]
    assert "optim.lr" in head
    assert "epochs" in head
    assert "data.name" not in head
    assert len(rows) == 4
    for row in rows:
        about, result = dict(zip(head, row, strict=True)), read_result(folder / row[0])
        assert about["state"] == "done"
        assert about["optim.lr"] == result["config"]["optim"]["lr"]
        for key in ("test_acc", "bits_per_weight", "file_bits_per_weight"):
            assert about[key] == result[key]


def test_a_run_without_a_result_has_a_row_without_numbers(runs, one):
    (one / "result.json").unlink()
    head, rows = runs_table(states(runs))
    row, other = sorted((dict(zip(head, row, strict=True)) for row in rows), key=lambda row: row["run"] != one.name)
    assert row["run"] == one.name
    assert row["state"] != "done"
    assert row["test_acc"] is None
    assert row["prune"] in (0.5, 0.8)
    assert other["test_acc"] is not None


@pytest.mark.slow
def test_the_figure_of_a_sweep_is_a_picture_that_shows_something(folder, tmp_path):
    pixels = sweep_figure(folder)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    assert sweep_figure(tmp_path) is None
