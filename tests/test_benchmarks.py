"""The benchmark runs each kind of row once at small size, so that none breaks unseen, and judges goals by its rows."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from benchmarks import bench, commands, goals, report, steps
from torch import nn


def stored(measured, *, ratios=None, medians=None, **more):
    return {"measured": measured, "ratios": ratios or {}, "medians": medians or {}} | more


def test_a_goal_is_met_missed_or_not_measured():
    rows = [
        stored("step conv2 float32", ratios={"biprop/dense": 1.03}),
        stored("step conv4 float32", ratios={"biprop/dense": 1.031}),
        stored("epoch conv4", ratios={"naive/mpt-train": 3.0, "bare/mpt-train": 0.9}, medians={"mpt-train": 300.0}),
        stored("loader", medians={"train": 20_000.0}),
        stored("peak memory conv2", medians={"biprop": 220.0, "dense": 100.0}, weights=2**20),
    ]
    verdicts = {what: (reached, verdict) for what, _, reached, verdict in goals.compare(rows)}
    assert len(verdicts) == len(goals.GOALS)
    assert verdicts["biprop / dense, step of conv2, float32"] == ("1.03", "met")
    assert verdicts["biprop / dense, step of conv4, float32"] == ("1.03", "missed")
    assert verdicts["biprop / dense, step of conv6, float32"] == ("", "not measured")
    assert verdicts["mpt-train / naive, images/s, epoch of conv4"] == ("3.00", "met")
    assert verdicts["mpt-train / bare loop, time, epoch of conv4"] == ("1.11", "missed")
    assert verdicts["loader, cropped and flipped, images/s"] == ("20,000", "missed")
    assert verdicts["loader, % of an epoch of conv4"] == ("1.50", "met")
    assert verdicts["peak of conv2: bytes a weight above 1.1 dense"] == ("110", "missed")


def tiny(num_classes=10):
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(288, num_classes),
    )


ROWS = {
    "step": lambda: steps.step_row("tiny", precision="float32", rounds=1),
    "bf16": lambda: steps.step_row("tiny", precision="bf16", rounds=1),
    "selection": lambda: steps.selections_row("tiny", rounds=1),
    "activations": lambda: steps.activations_row("tiny", rounds=1),
    "search": lambda: bench.search_row(10_000, rounds=1),
    "select": lambda: bench.selection_row(10_000, rounds=1),
    "loader": lambda: bench.loader_row(rounds=1),
    "start-up": lambda: commands.startup_row(rounds=1),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "start-up" else ()) for kind in ROWS]
)
def test_a_row_is_measured_and_printed(monkeypatch, kind):
    monkeypatch.setitem(steps.BACKBONES, "tiny", tiny)
    monkeypatch.setattr(bench, "IMAGES", 256)
    row = ROWS[kind]().as_json()
    numbers = [*row["medians"].values(), *row["ratios"].values()]
    assert numbers
    assert all(math.isfinite(number) and number > 0 for number in numbers)
    assert row["measured"] in report.table([row])


@pytest.mark.slow
def test_an_epoch_of_mpt_train_and_the_memory_of_a_step_are_measured():
    data = steps.random_data(steps.BATCH)
    assert steps.mpt_train_epoch("torchvision resnet18", data) > 0
    done = subprocess.run([sys.executable, "-m", "benchmarks.steps", "conv2", "1/1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 50  # megabytes: the activations alone are more
