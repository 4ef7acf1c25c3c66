from __future__ import annotations

import json
import signal
import time

import pytest

from mpt.run.result import write_result
from tests.console import SMALL, command, process, results

PICK = """# @package _global_
sweep: pick
budget: paper
hydra:
  mode: MULTIRUN
  sweep: {dir: "${runs}/pick"}
  sweeper:
    params:
      prune: "0.8"
      seed: 1,2
    choose:
      optim.lr: ${times_kept:0.001},${times_kept:0.5},1e29
      seed: "0"
      data.val_size: "0.25"
"""
AXES = ["--config-dir", "mine", "sweeps=pick", *[o for o in SMALL if not o.startswith("epochs")], "epochs=1"]


@pytest.fixture
def mine(tmp_path):
    """A folder with the user's own sweep ``pick``, which chooses a learning rate."""
    (tmp_path / "mine" / "sweeps").mkdir(parents=True)
    (tmp_path / "mine" / "sweeps" / "pick.yaml").write_text(PICK)
    return tmp_path


@pytest.mark.slow
def test_each_point_gets_the_value_that_is_best_on_held_out_images(mine):
    output = command("train", *AXES, cwd=mine).stdout
    assert "pick (paper): 2 runs in runs/pick: 0 done" in output
    assert "first 3 runs in runs/pick-choice choose optim.lr on held-out images for each point, 0 done" in output
    trials, runs = results(mine / "runs" / "pick-choice"), results(mine / "runs" / "pick")
    accs = {row["config"]["optim"]["lr"]: row.get("val_acc") for row in trials.values()}
    assert accs.keys() == {0.0002, 0.1, 1e29}
    assert accs[1e29] is None  # it diverged
    best = max((0.0002, 0.1), key=accs.get)
    assert sorted((row["seed"], row["config"]["optim"]["lr"]) for row in runs.values()) == [(1, best), (2, best)]
    assert {row["config"]["sweep"] for row in trials.values()} == {"pick-choice"}
    assert {row["config"]["sweep"] for row in runs.values()} == {"pick"}
    assert all("val_acc" not in row for row in runs.values())
    assert f"chosen optim.lr={best:g} for " in output
    listed = command("train", *AXES, "--dry-run", cwd=mine).stdout
    assert "2 runs in runs/pick: 2 done" in listed


@pytest.mark.slow
def test_test_accuracies_choose_nothing(mine):
    command("train", *AXES, "seed=1", cwd=mine)
    for path in (mine / "runs" / "pick-choice").glob("*/result.json"):
        content = json.loads(path.read_text())
        if content["status"] == "done":  # now the worse rate is far better on test images
            content["test_acc"] = 1 - content["val_acc"]
            del content["checksum"]
            write_result(path.parent, content)
    assert "1 done" in command("train", *AXES, "seed=1", "--dry-run", cwd=mine).stdout


@pytest.mark.slow
def test_a_point_all_of_whose_values_diverge_is_listed_as_failed(mine):
    path = mine / "mine" / "sweeps" / "pick.yaml"
    path.write_text(PICK.replace("${times_kept:0.001},${times_kept:0.5},1e29", "1e29,2e29"))
    done = command("train", *AXES, cwd=mine, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("2 runs: no run that was to choose its values ended well") == 1


@pytest.mark.slow
def test_what_the_sweep_chooses_cannot_be_given(mine):
    done = command("train", *AXES, "optim.lr=0.1", cwd=mine, check=False)
    assert "optim.lr is chosen by the sweep" in done.stderr
    assert not list(mine.rglob("result.json"))


@pytest.mark.slow
@pytest.mark.parametrize("trials", [0, 2])
def test_a_sweep_that_is_killed_while_it_chooses_goes_on(mine, started, trials):
    assert process("train", *AXES, "runs=whole", cwd=mine).returncode == 0
    sweep = started(mine, *AXES)
    while len(results(mine / "runs" / "pick-choice")) <= trials and sweep.poll() is None:
        time.sleep(0.02)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    assert process("train", *AXES, cwd=mine).returncode == 0
    for folder in ("pick", "pick-choice"):
        whole, cut = (results(mine / runs / folder) for runs in ("whole", "runs"))
        assert {name: row.get("ticket_checksum") for name, row in whole.items()} == {
            name: row.get("ticket_checksum") for name, row in cut.items()
        }
