from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from mpt.multirun.sweep import record_list
from mpt.run import status
from mpt.signals import Interrupted
from tests.console import SMALL, command, compose, left_behind, results

TINY = """# @package _global_
sweep: tiny
budget: paper
epochs: 3
hydra:
  mode: MULTIRUN
  sweep: {dir: "${runs}/tiny-${budget}"}
  sweeper:
    params:
      prune: 0.5,0.8
      seed: 0,1
    lines:
      tickets: {method: biprop}
      dense: {recipe: mpt_conv_dense}
    mini:
      seed: 0
      epochs: 1
"""
AXES = [o for o in SMALL if not o.startswith("epochs")]


@pytest.fixture
def mine(tmp_path):
    """A folder with the user's own sweep ``tiny``."""
    (tmp_path / "mine" / "sweeps").mkdir(parents=True)
    (tmp_path / "mine" / "sweeps" / "tiny.yaml").write_text(TINY)
    return tmp_path


def tiny(*more):
    return ["--config-dir", "mine", "sweeps=tiny", *AXES, *more]


def test_commands_that_list_their_runs_at_the_same_moment_lose_none(tmp_path):
    runs = [SimpleNamespace(directory=tmp_path / f"run{i}", overrides=[f"seed={i}"]) for i in range(40)]
    with ThreadPoolExecutor(8) as commands:
        list(commands.map(lambda run: record_list(tmp_path, [run]), runs))
    assert status.read_list(tmp_path) == {f"run{i}": [f"seed={i}"] for i in range(40)}
    assert [path.name for path in tmp_path.iterdir()] == [status.LIST]


def count_line(text):
    return next(line for line in text.splitlines() if " runs in " in line)


def test_a_sweep_runs_each_combination_once_and_dense_once_for_all_prunes_and_repeating_it_touches_nothing(mine):
    output = command("train", *tiny("budget=mini"), cwd=mine).stdout
    assert "tiny (mini): 3 runs" in count_line(output)
    assert "3 missing" in count_line(output)
    assert "seed: 0,1 -> 0" in output
    assert "estimate: about" in output
    rows = results(mine / "runs" / "tiny-mini")
    assert sorted((row["method"], row["prune"]) for row in rows.values()) == [
        ("biprop", 0.5),
        ("biprop", 0.8),
        ("dense", 0.0),
    ]
    assert {(row["sweep"], row["budget"]) for row in rows.values()} == {("tiny", "mini")}
    files = [path for run in rows for path in (mine / "runs" / "tiny-mini" / run).iterdir()]
    written = {path: path.stat().st_mtime_ns for path in files}
    again = command("train", *tiny("budget=mini"), cwd=mine).stdout
    assert "3 done" in count_line(again)
    assert "estimate" not in again
    assert {path: path.stat().st_mtime_ns for path in files} == written


@pytest.mark.slow
def test_an_axis_of_the_command_line_replaces_the_file_s_and_a_new_one_is_added(mine):
    done = command("train", *tiny("prune=0.9", "seed=0", "epochs=0,1"), cwd=mine, check=False)
    assert done.returncode == 1
    assert "epochs must be at least 1, got 0" in done.stderr
    output = command("train", *tiny("prune=0.9", "seed=3,4", "method=edge_popup", "epochs=1"), cwd=mine).stdout
    rows = results(mine / "runs" / "tiny-paper").values()
    assert "4 runs" in count_line(output)  # method is an axis of one line only: dense stays
    assert sorted((row["method"], row["seed"], row["prune"]) for row in rows) == [
        ("dense", 3, 0.0),
        ("dense", 4, 0.0),
        ("edge_popup", 3, 0.9),
        ("edge_popup", 4, 0.9),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prune=0.5,1.2"], ["fraction removed", "1.2"]),
        (["model=conv2,nope"], ["model has no choice 'nope'"]),
        (["prun=0.5,0.6"], ["prun"]),
        (["model=conv2,conv8"], ["image_size must be at least 16 for conv8"]),
        (["method.score_grad=weight,sgn"], ["score_grad", "sgn"]),
        (["trainer.devices=1,3"], ["divisible by the 3 processes"]),
        (["trainer.num_nodes=2"], ["num_nodes", "hydra/launcher=slurm"]),
        (["runs=a,b"], ["runs must be one value"]),
        (["budget=huge"], ["budget must be paper or mini"]),
    ],
)
def test_a_bad_value_anywhere_in_an_axis_is_refused_before_anything_starts(mine, arguments, words):
    sweep = ["-m", *AXES] if arguments[0].startswith("method") else tiny("budget=mini", "prune=0.5")
    done = command("train", *sweep, *arguments, cwd=mine, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr.splitlines()[-1]
    assert not list(mine.rglob("result.json"))
    assert not list(mine.rglob("claim"))


def test_a_sweep_on_slurm_is_refused_where_there_is_none_before_anything_is_written(tmp_path):
    arguments = ["-m", *SMALL, "hydra/launcher=slurm", "seed=0,1"]
    done = command("train", *arguments, cwd=tmp_path, check=False, environment={"PATH": ""})
    assert done.stderr.startswith("mpt-train: hydra/launcher=slurm needs SLURM's sbatch, which is not here")
    assert not list(tmp_path.iterdir())


def test_an_unknown_sweep_is_refused_with_the_names_of_all(tmp_path):
    done = command("train", "sweeps=nope", cwd=tmp_path, check=False)
    assert "sweeps has no choice 'nope': take one of" in done.stderr
    assert "fig2" in done.stderr


def test_a_budget_without_a_sweep_is_refused(tmp_path):
    assert "sweeps=<name>" in command("train", *SMALL, "budget=mini", cwd=tmp_path, check=False).stderr


@pytest.mark.slow
def test_a_failing_run_stops_no_other_is_listed_and_is_tried_once_per_command(mine):
    arguments = ["-m", *AXES, "epochs=1", "optim.lr=1e30,0.1", "seed=0,1", "method=dense"]
    for tried in (1, 2):
        done = command("train", *arguments, cwd=mine, check=False)
        assert done.returncode == 1
        rows = results(mine / "runs")
        assert sorted(row["status"] for row in rows.values()) == ["done", "done", "failed", "failed"]
        reasons = [line for line in done.stderr.splitlines() if "lower optim.lr" in line]
        assert len(reasons) == 3, tried  # of each as it happens, and once in the list at the end
        listed = done.stderr[done.stderr.index("2 runs failed:") :]
        assert all(name in listed for name, row in rows.items() if row["status"] == "failed")
    assert "2 done, 0 running, 0 interrupted, 2 failed (to be tried again)" in count_line(done.stdout)


def test_a_run_that_another_command_saw_fail_since_this_one_began_is_not_tried_again(tmp_path):
    settings = compose()
    before = time.time() - 10
    status.record_failure(tmp_path, settings, ValueError("broken"))
    assert status.has_failed_since(tmp_path, before)
    assert not status.has_failed_since(tmp_path, time.time() + 10)
    status.record_failure(tmp_path, settings, Interrupted(signal.SIGINT))  # by another user's Ctrl-C
    assert not status.has_failed_since(tmp_path, before)


@pytest.mark.slow
def test_a_run_that_cannot_start_stops_no_other_and_is_listed_with_its_reason(mine):
    output = command("train", *tiny("budget=mini", "--dry-run"), cwd=mine).stdout
    damaged, held = [mine / "runs" / "tiny-mini" / line.split()[1] for line in output.splitlines()[-3:-1]]
    damaged.mkdir(parents=True)
    (damaged / "config.yaml").write_text("model: [")
    (held / "claim").mkdir(parents=True)
    done = command("train", *tiny("budget=mini"), cwd=mine, check=False)
    assert done.returncode == 1
    assert "1 of 3 runs" in done.stdout
    assert "Traceback" not in done.stderr
    listed = done.stderr[done.stderr.index("2 runs failed:") :]
    assert len(listed.splitlines()) == 3  # and not a word more
    assert f"{damaged.name}: " in listed
    assert "config.yaml is damaged" in listed
    assert f"{held.name}: it could not start" in listed
    assert len([row for row in results(mine / "runs" / "tiny-mini").values() if row["status"] == "done"]) == 1


@pytest.mark.slow
def test_options_of_a_method_are_for_the_runs_that_have_it(mine):
    output = command("train", *tiny("budget=mini", "method.score_grad=sign,weight", "--dry-run"), cwd=mine).stdout
    assert "5 runs" in count_line(output)  # two of each ticket, and the dense one
    refused = command("train", *tiny("budget=mini", "method.score_gra=sign", "--dry-run"), cwd=mine, check=False)
    assert refused.returncode == 1
    assert "method.score_gra" in refused.stderr


TIMES = ("seconds", "images_per_second", "config", "commit", "ticket_bytes", "checksum")


def table(folder):
    return {name: {k: v for k, v in row.items() if k not in TIMES} for name, row in results(folder).items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]], ids=["basic", "joblib"]
)
def test_a_sweep_killed_at_two_moments_and_repeated_gives_the_table_of_an_uninterrupted_one(mine, started, launcher):
    assert started(mine, *tiny("runs=whole")).wait() == 0
    whole = table(mine / "whole" / "tiny-paper")
    assert len(whole) == 6
    moments = random.Random(len(launcher))
    finished: dict[str, int] = {}
    for _ in range(2):
        sweep = started(mine, *tiny("runs=cut", *launcher))
        enough = len(finished) + 1 + moments.randrange(2)
        while len(results(mine / "cut" / "tiny-paper")) < enough and sweep.poll() is None:
            time.sleep(0.05)
        time.sleep(moments.random())
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
        assert not left_behind(mine)
        done = {n for n, row in results(mine / "cut" / "tiny-paper").items() if row["status"] == "done"}
        finished = {n: (mine / "cut" / "tiny-paper" / n / "result.json").stat().st_mtime_ns for n in done}
    assert started(mine, *tiny("runs=cut", *launcher)).wait() == 0
    assert table(mine / "cut" / "tiny-paper") == whole
    for name, written in finished.items():
        assert (mine / "cut" / "tiny-paper" / name / "result.json").stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_worker_that_never_had_a_run_ends_with_a_killed_sweep(tmp_path, started):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    sweep = started(tmp_path, "-m", *AXES, "epochs=1000", "prune=0.5", *launcher)  # one run, two workers
    while not list(tmp_path.glob("*/**/metrics.jsonl")) and sweep.poll() is None:
        time.sleep(0.05)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    assert not left_behind(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_commands_share_a_sweep_and_a_third_takes_over_what_a_killed_one_held(mine, started):
    commands = [started(mine, *tiny()) for _ in range(3)]
    while not list((mine / "runs").glob("tiny-paper/*/claim")) and commands[0].poll() is None:
        time.sleep(0.05)
    commands[0].send_signal(signal.SIGKILL)
    assert [sweep.wait(600) for sweep in commands][1:] == [0, 0]
    rows = results(mine / "runs" / "tiny-paper")
    assert len(rows) == 6
    assert {row["status"] for row in rows.values()} == {"done"}
    tables = (mine / "log").read_text().count("all searched layers")
    assert tables <= 5  # a table is printed when a run starts: 4 tickets, and at most the killed command's once more
    assert "6 of 6 runs" in (mine / "log").read_text()
    assert not list((mine / "runs").rglob("claim"))


TUNED = """# @package _global_
sweep: tuned
budget: paper
hydra:
  mode: MULTIRUN
  sweep: {dir: "${runs}/tuned-${budget}"}
  sweeper:
    params: {prune: "0.5,0.8"}
    finetune: {layers: "first,last", epochs: 2, batch: 32}
    mini: {prune: "0.5"}
    mini_finetune: {epochs: 1}
"""


@pytest.mark.slow
def test_a_sweep_fine_tunes_the_tickets_that_it_found_and_repeats_none(mine):
    (mine / "mine" / "sweeps" / "tuned.yaml").write_text(TUNED)
    arguments = ["--config-dir", "mine", "sweeps=tuned", "budget=mini", *AXES, "epochs=1"]
    output = command("train", *arguments, cwd=mine).stdout
    assert "then 2 fine-tuning runs of each ticket, 0 of 2 done: layers=first,last, epochs=1, batch=32" in output
    assert "fine-tuning: epochs: 2 -> 1" in output
    rows = results(mine / "runs" / "tuned-mini")
    assert sorted(row["method"] for row in rows.values()) == ["biprop", "finetune_first", "finetune_last"]
    searched = next(row for row in rows.values() if row["method"] == "biprop")
    for row in rows.values():
        assert (row["sweep"], row["budget"], row["epochs"]) == ("tuned", "mini", 1)
        assert row.get("test_acc_before", searched["test_acc"]) == pytest.approx(searched["test_acc"])
    again = command("train", *arguments, cwd=mine).stdout
    assert "epoch" not in again.partition("batch=32")[2]
    assert "2 of 2 done" in again
    assert "3 of 3 runs" in again
