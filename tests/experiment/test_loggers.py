from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest

from mpt import signals
from mpt.experiment import loggers
from tests.console import SMALL, command, compose, read_result, results
from tests.recordings import leet


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_multirun_records_one_wandb_run_per_job_with_its_group_and_a_failed_one_as_failed(tmp_path):
    (tmp_path / "mine" / "sweeps").mkdir(parents=True)
    (tmp_path / "mine" / "sweeps" / "own.yaml").write_text(
        "# @package _global_\nsweep: own\nbudget: paper\nhydra: {mode: MULTIRUN, sweep: {dir: runs/own}}\n"
    )
    axes = ["sweeps=own", *SMALL[:-3], "epochs=1", "trainer=cpu", "logger=wandb", "logger.tags=[a]", "method=dense"]
    done = command("train", "--config-dir", "mine", *axes, "optim.lr=0.1,1e30", "seed=0,1", cwd=tmp_path, check=False)
    assert done.returncode == 1
    rows = results(tmp_path / "runs" / "own")
    assert sorted(row["status"] for row in rows.values()) == ["done", "done", "failed", "failed"]
    ids = set()
    for name, row in rows.items():
        recordings = list((tmp_path / "runs" / "own" / name / "wandb").glob("offline-run-*/*.wandb"))
        assert len(recordings) == 1
        summary = json.loads(leet("--summary", "--json", str(recordings[0])))
        failed = row["status"] == "failed"
        assert (summary["state"], summary["exit_code"]) == (("failed", 1) if failed else ("finished", 0))
        assert set(summary["tags"]) == {"a", "own", "paper"}
        assert summary["config"]["optim"]["lr"] == row["config"]["optim"]["lr"]
        if not failed:
            assert summary["summary"]["test_acc"] == pytest.approx(row["test_acc"])
        run = next(
            line for line in map(json.loads, leet("--json", str(recordings[0])).splitlines()) if line["type"] == "run"
        )
        assert "own-paper" in json.dumps(run)
        assert '"train"' in json.dumps(run)
        ids.add(summary.get("run_id") or recordings[0].stem)
    assert len(ids) == 4
    assert not (tmp_path / "wandb").exists()


@pytest.mark.slow
def test_a_run_that_failed_is_recorded_again_under_the_same_id(tmp_path):
    for _ in range(2):
        command("train", *SMALL, "logger=wandb", "optim.lr=1e30", "hydra.run.dir=run", cwd=tmp_path, check=False)
    # offline-run-<time>-<id>, and a number behind it where both runs began in the same second
    ids = [path.name.split("-")[3] for path in (tmp_path / "run" / "wandb").glob("offline-run-*")]
    assert len(ids) == 2
    assert len(set(ids)) == 1


@pytest.mark.slow
def test_wandb_offline_records_one_finished_run_with_group_config_and_ticket(tmp_path):
    group = ["logger=wandb", "logger.group=curves", "logger.tags=[a,b]"]
    command("train", *SMALL, *group, "hydra.run.dir=run", cwd=tmp_path)
    recorded = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(recorded) == 1
    content = recorded[0].read_bytes()
    for expected in (b"curves", b"test/acc", b"ticket/density", b"test_acc_max", b"score_grad", b"ticket"):
        assert expected in content
    assert not (tmp_path / "wandb").exists()
    assert read_result(tmp_path / "run")["status"] == "done"


@pytest.mark.slow
def test_tensorboard_writes_its_events_into_the_run(tmp_path):
    command("train", *SMALL, "logger=tensorboard", "hydra.run.dir=run", cwd=tmp_path)
    events = list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert len(events) == 1
    assert b"test/acc" in events[0].read_bytes()


def test_wandb_that_died_of_a_signal_before_this_process_got_it_is_ended_without_a_traceback(tmp_path, monkeypatch):
    wandb, lost = mock.MagicMock(), ConnectionResetError("Connection lost")
    wandb.finish.side_effect = lost
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(loggers, "_wandb", lambda *_: mock.Mock())
    monkeypatch.setattr(signals._State, "received", 0)
    later = threading.Timer(0.1, lambda: setattr(signals._State, "received", int(signal.SIGTERM)))
    later.start()
    with pytest.raises(ConnectionResetError), loggers.open_loggers(tmp_path, compose(*SMALL), kinds=["wandb"]):
        raise lost
    later.join()
    wandb.run.mark_preempting.assert_called_once()
    wandb.teardown.assert_called_once()  # else it would do so when this process exits, and print a traceback


STOPPED = """
import os, signal, sys, threading
from pathlib import Path
from mpt import signals
from mpt.errors import run_command
from mpt.experiment import loggers
from tests.console import SMALL, compose

signals._AGAIN = 0.2
sys.argv = ["mpt-x"]

def work(arguments):
    with loggers.open_loggers(Path("run"), compose(*SMALL, "logger=wandb"), kinds=["wandb"]) as (logger,):
        logger.log_metrics({"loss": 1.0}, step=1)
        children = [pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]
        (core,) = [int(pid) for pid in children if Path("/proc", pid, "comm").read_text().startswith("wandb-core")]
        me = os.getpid()
        CASE

run_command("mpt-x", work)
"""
SLOW = (
    "os.kill(core, signal.SIGSTOP); threading.Timer(3, os.kill, (core, signal.SIGKILL)).start()"  # and then it is lost
)
LATER = "threading.Timer(1, os.kill, (me, signal.SIGTERM)).start()"
WANDB_ENDS = {
    "the signal comes again while W&B closes a run": f"{SLOW}; os.kill(me, signal.SIGTERM)",
    "the signal comes while W&B closes a finished run": f"{SLOW}; {LATER}",
    "W&B dies of the same signal": "os.killpg(0, signal.SIGTERM); signal.pause()",
    "W&B has died of it": "os.kill(core, signal.SIGKILL); os.waitpid(core, 0); os.kill(me, signal.SIGTERM)",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WANDB_ENDS)
def test_a_signal_ends_a_command_with_its_sentence_alone_whatever_becomes_of_wandb(tmp_path, case):
    done = subprocess.run(
        [sys.executable, "-c", STOPPED.replace("CASE", WANDB_ENDS[case])],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=200,
        start_new_session=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (143, "mpt-x: interrupted: repeat the command\n")
