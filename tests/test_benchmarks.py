"""The benchmark runs each kind of row once at small size, so that none breaks unseen, and judges goals by its rows."""

from __future__ import annotations

import json
import math
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
import torch
from benchmarks import bench, commands, engine, engine_report, goals, report, rivals, searches, steps, tickets
from torch import nn

from mpt.engine.speed import compare_speed
from mpt.search.layers import ticket_layers
from tests.console import SMALL, command


def stored(measured, *, ratios=None, medians=None, **more):
    return {"measured": measured, "ratios": ratios or {}, "medians": medians or {}} | more


def test_a_goal_is_met_missed_or_not_measured():
    rows = [
        stored("step conv2 float32", ratios={"biprop/dense": 1.03}),
        stored("step conv4 float32", ratios={"biprop/dense": 1.031}),
        stored(
            "epoch conv4 float32", ratios={"naive/mpt-train": 3.0, "bare/mpt-train": 0.9}, medians={"mpt-train": 300.0}
        ),
        stored("loader", medians={"train": 20_000.0}),
        stored("peak memory conv2", medians={"biprop": 220.0, "dense": 100.0}, weights=2**20),
    ]
    verdicts = {what: (reached, verdict) for what, _, reached, verdict in goals.compare(rows)}
    assert len(verdicts) == len(goals.GOALS)
    assert verdicts["biprop / dense, step of conv2, float32"] == ("1.03", "met")
    assert verdicts["biprop / dense, step of conv4, float32"] == ("1.03", "missed")
    assert verdicts["biprop / dense, step of conv6, float32"] == ("", "not measured")
    assert verdicts["mpt-train / naive in float32, images/s, epoch of conv4, float32"] == ("3.00", "met")
    assert verdicts["mpt-train / bare loop, time, epoch of conv4 float32"] == ("1.11", "missed")
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
    "sgd": lambda: steps.optimizers_row("tiny", kind="sgd", precision="float32", rounds=1),
    "adam": lambda: steps.optimizers_row("tiny", kind="adam", precision="bf16", rounds=1),
    "selection": lambda: steps.selections_row("tiny", rounds=1),
    "activations": lambda: steps.activations_row("tiny", rounds=1),
    "searches": lambda: steps.rivals_row("tiny", rounds=1),
    "search": lambda: bench.search_row(10_000, rounds=1),
    "select": lambda: bench.selection_row(10_000, rounds=1),
    "subset sums": lambda: bench.subset_row(rows=2, rounds=1),
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


@pytest.mark.parametrize("search", [searches.full_sort, searches.kthvalue, searches.clamped_kthvalue])
def test_a_search_of_others_keeps_the_weights_that_biprop_keeps_and_moves_its_scores(search):
    torch.manual_seed(0)
    net, other = (make(tiny()) for make in (searches.biprop, search))
    other.load_state_dict(net.state_dict())
    layers, others = ticket_layers(net), ticket_layers(other)
    for name, layer in layers.items():
        expected = layer.ticket_weight() != 0
        found = others[name].ticket_weight() != 0
        assert (found != expected).sum() <= 1, name  # they round the number kept in their own way
    nn.functional.cross_entropy(other(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    assert all(layer.scores.grad.abs().sum() > 0 for layer in others.values())


@pytest.mark.slow
def test_an_epoch_of_mpt_train_and_the_memory_of_a_step_are_measured():
    data = steps.random_data(steps.BATCH)
    assert steps.mpt_train_epoch("torchvision resnet18", data, precision="float32") > 0
    done = subprocess.run([sys.executable, "-m", "benchmarks.steps", "conv2", "1/1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 50  # megabytes: the activations alone are more


@pytest.fixture
def engine_rows(monkeypatch, tmp_path):
    """A small benchmark of the engine: its options, and the file that it writes."""

    def fails(*_):
        raise RuntimeError("no such library\nand more")

    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "objects"))
    monkeypatch.setattr(rivals, "RIVALS", {"again": lambda dense, images, *_: lambda: dense(images), "broken": fails})
    monkeypatch.setattr(engine, "ticket_of", partial(engine.ticket_of, width=0.1))
    return ["--networks", "conv4", "--batch", "1", "--seconds", "0.01", "--out", str(tmp_path / "engine.json")]


def run_engine(monkeypatch, capsys, *arguments):
    """The lines that the benchmark prints."""
    monkeypatch.setattr(sys, "argv", ["engine", *arguments])
    engine.main()
    return capsys.readouterr().out.splitlines()[:-1]


@pytest.mark.slow
def test_the_engine_s_benchmark_measures_what_is_missing_and_what_was_disturbed(
    engine_rows, monkeypatch, capsys, tmp_path
):
    options = [*engine_rows, "--threads", "1", "--activations", "1/32"]
    idle = {"cores": 2, "load_average": 1.0}
    monkeypatch.setattr(engine, "compare_speed", lambda *t, **o: [row | idle for row in compare_speed(*t, **o)])
    assert len(run_engine(monkeypatch, capsys, *options, "--prune", "0.9")) == 1
    assert len(run_engine(monkeypatch, capsys, *options, "--prune", "0.5", "0.9")) == 1
    assert not run_engine(monkeypatch, capsys, *options, "--prune", "0.5", "0.9")
    path = tmp_path / "engine.json"
    stored = json.loads(path.read_text())
    stored["rows"][0]["load_average"] = 9.0
    path.write_text(json.dumps(stored))
    [line] = run_engine(monkeypatch, capsys, *options, "--prune", "0.5", "0.9")
    assert f"P={stored['rows'][0]['prune']}" in line
    assert "again" in line
    assert stored["rows"][0]["missing"] == {"broken": "RuntimeError: no such library"}


@pytest.mark.slow
def test_the_engine_s_page_says_what_was_measured_and_what_was_not(engine_rows, monkeypatch, capsys, tmp_path):
    run_engine(monkeypatch, capsys, *engine_rows, "--threads", "1", "2", "--prune", "0.9")
    rows = json.loads((tmp_path / "engine.json").read_text())["rows"]
    assert {(row["activations"], row["threads"]) for row in rows} == {(a, t) for a in ("1/32", "1/1") for t in (1, 2)}
    page = (tmp_path / "ENGINE.md").read_text()
    assert "broken: RuntimeError: no such library" in page
    assert rows[0]["machine"] in page


def test_a_ratio_below_its_goal_is_marked():
    row = {
        "network": "conv4",
        "activations": "1/32",
        "prune": 0.9,
        "batch": 1,
        "threads": 1,
        "rounds": 3,
        "missing": {},
    }
    row |= {
        "date": "2026-01-01T00:00",
        "machine": "CPU",
        "cores": 2,
        "code": "zen, vectors of 16",
        "load_average": 1.0,
        "versions": {},
    }
    row |= {"ms": {}, "error": {"lists": 1e-7}}
    row |= {"ratio": {"torch": 1.0, "onnxruntime": 1.5, "lists": 4.25, "unrolled": 8.25}}
    page = engine_report.page([row])
    assert "| Conv4, lists | 4.25< / - |" in page
    assert "| Conv4, unrolled | 8.25 / - |" in page
    assert "| Conv4, unrolled | 5.5 / - |" in page  # against onnxruntime
    half = engine_report.page([row | {"machine": "other", "code": "old, vectors of 8"}, row])
    assert half.index("## CPU (zen") < half.index("## other (old")
    assert "| Conv4, lists | 4.25 / - |" in half
    assert "| *goal, MPT-1/32, lists* | 2.5 / 1.6 |" in half
    two = row | {
        "threads": 2,
        "batch": 64,
        "wall_ms": {"torch": 1, "torch channels-last": 2, "lists": 1, "unrolled": 1},
        "one_thread_ms": {"torch": 4, "torch channels-last": 3, "lists": 1.5, "unrolled": 1.9},
    }
    one = two | {"threads": 1, "one_thread_ms": {}}
    assert "| Conv4, P = 0.9 | 3.00 | 1.50< | 1.90 |" in engine_report.page([one, two])


@pytest.mark.slow
def test_runs_with_a_dense_network_are_timed_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(rivals, "RIVALS", {"onnxruntime": lambda dense, images, *_: lambda: dense(images)})
    for arguments in (["prune=0.8"], ["method=dense", "prune=0"], ["prune=0.8", "width=0.25"]):
        command("train", *SMALL, "epochs=1", "runs=runs", *arguments, cwd=tmp_path)
    rows = tickets.measure(tmp_path / "runs", seconds=0.01)
    engines = ["torch", "onnxruntime", "torch", "lists", "unrolled"]
    assert [row["engine"] for row in rows] == engines  # no dense run of width .25
    assert [row["variant"] for row in rows] == ["dense"] * 2 + ["MPT-1/32"] * 3
    assert rows[2]["bits"] == 8 * rows[2]["ticket_bytes"] / rows[2]["num_weights"]
    assert rows[0]["bits"] > 32
    tickets.write(rows, tmp_path / "tickets.csv")
    again = tickets.read(tmp_path / "tickets.csv")
    assert [row["ms"] for row in again] == pytest.approx([row["ms"] for row in rows], rel=1e-4)
    left, right = tickets.draw(again).axes
    assert [line.get_label() for line in left.get_lines()] == [
        *("ticket, torch", "ticket, lists", "ticket, unrolled", "dense, torch", "dense, onnxruntime"),
    ]
    assert right.get_lines()[0].get_xdata()[0] == pytest.approx(rows[2]["bits"], rel=1e-4)


def largest_differences(folder):
    """By how much the logits of each rival differ from torch's, by the largest logit; and what is missing."""
    del rivals.RIVALS["torch.compile"]  # compiles C++ for most of a minute
    net, images, missing = tiny().eval(), torch.randn(2, 3, 32, 32), {}
    with torch.no_grad():
        wanted = net(images)
        calls = rivals.make(net, images, 1, folder=folder, missing=missing)
        logits = {name: torch.as_tensor(call()[0]) for name, call in calls.items()}
    found = {name: float((one - wanted).abs().max() / wanted.abs().max()) for name, one in logits.items()}
    return found, missing


@pytest.mark.slow
def test_the_rivals_give_the_logits_of_torch_where_they_are_installed(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    # in a process of its own: OpenVINO leaves a freed stack for signals behind, and the next signal ends the process
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        differences, missing = pool.submit(largest_differences, tmp_path).result()
    assert (missing, len(differences)) == ({}, 4)
    for name, difference in differences.items():
        assert difference <= (0.1 if "int8" in name else 1e-5), name
