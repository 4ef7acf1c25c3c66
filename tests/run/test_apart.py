from __future__ import annotations

import json
import os
import signal
import time

import pytest

from mpt.run.apart import DIRECTORY, hand_on, hold_devices
from mpt.run.claim import hold_claim
from tests.console import SMALL, left_behind, results

TWO = [o for o in SMALL if not o.startswith(("epochs", "trainer.devices"))]


def test_a_device_belongs_to_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with hold_devices(1, ["0", "1", "2"]) as first, hold_devices(2, ["0", "1", "2"]) as others:
        assert sorted(first + others) == ["0", "1", "2"]
    with hold_devices(3, ["0", "1", "2"]) as every:
        assert every == ["0", "1", "2"]


def test_a_directory_is_handed_on_while_a_run_trains_and_then_no_more(tmp_path, monkeypatch):
    monkeypatch.setenv(DIRECTORY, "of a sweep")
    with hand_on(tmp_path):
        assert os.environ[DIRECTORY] == str(tmp_path)
    assert os.environ[DIRECTORY] == "of a sweep"
    monkeypatch.delenv(DIRECTORY)
    with hand_on(tmp_path):
        pass
    assert DIRECTORY not in os.environ


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "launcher",
    [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], ["hydra/launcher=submitit_local"]],
    ids=["basic", "joblib", "submitit_local"],
)
def test_an_axis_of_devices_trains_on_as_many_processes(tmp_path, started, launcher):
    sweep = started(tmp_path, "-m", *TWO, "epochs=2", "trainer.devices=1,2", *launcher)
    assert sweep.wait() == 0, (tmp_path / "log").read_text()
    rows = results(tmp_path / "runs").values()
    assert sorted(row["processes"] for row in rows) == [1, 2]
    assert len({row["test_acc"] for row in rows}) == 1
    names = sorted(path.name for path in (tmp_path / "runs").iterdir() if path.name != ".submitit")
    assert len(names) == 3  # two runs and the list of them
    assert {path.name for path in tmp_path.iterdir()} == {"log", "runs"}
    assert not left_behind(tmp_path)


BAD = """
import os, torch, mpt.backbones
def build(num_classes, image_size, in_channels, width):
    net = mpt.backbones.conv2(num_classes=num_classes, image_size=image_size, in_channels=in_channels, width=width)
    net.steps = 0
    def fail(module, images):
        module.steps += 1
        if module.steps > 8 and os.environ.get("LOCAL_RANK") == "1":
            raise ValueError("process 1 broke")
    net.register_forward_pre_hook(fail)
    return net
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_process_that_breaks_is_the_recorded_reason_and_the_next_run_starts(tmp_path, started, monkeypatch):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "bad.yaml").write_text("name: bad\ntarget: breaks.build\n")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "breaks.py").write_text(BAD)
    paths = [str(tmp_path / "code"), *([p] if (p := os.environ.get("PYTHONPATH")) else [])]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    overrides = [o for o in TWO if not o.startswith("model")]
    sweep = started(
        tmp_path, "-m", "--config-dir", "mine", *overrides, "model=bad,conv2", "epochs=2", "trainer.devices=2"
    )
    assert sweep.wait() == 1
    rows = results(tmp_path / "runs")
    assert sorted(row["status"] for row in rows.values()) == ["done", "failed"]
    assert next(row["error"] for row in rows.values() if row["status"] == "failed") == "process 1 broke"
    assert not left_behind(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_left_of_a_run_of_two_processes_when_its_sweep_is_killed(tmp_path, started):
    sweep = started(tmp_path, "-m", *TWO, "epochs=500", "trainer.devices=2")
    while not list((tmp_path / "runs").glob("*/metrics.jsonl")) and sweep.poll() is None:
        time.sleep(0.1)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    assert not left_behind(tmp_path)
    run = next((tmp_path / "runs").glob("*/metrics.jsonl")).parent
    with hold_claim(run):  # its claim has lapsed
        assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["epoch"] == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_ends_a_sweep_and_its_run_of_two_processes(tmp_path, started):
    sweep = started(tmp_path, "-m", *TWO, "epochs=500", "trainer.devices=2", "seed=0,1")
    while not list((tmp_path / "runs").glob("*/metrics.jsonl")) and sweep.poll() is None:
        time.sleep(0.1)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait() == 130
    assert not left_behind(tmp_path)
    assert [row["status"] for row in results(tmp_path / "runs").values()] in ([], ["interrupted"])
    assert len(list((tmp_path / "runs").glob("*/config.yaml"))) == 1
