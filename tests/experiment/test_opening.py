from __future__ import annotations

import pytest

from mpt.experiment.monitor import Monitor
from mpt.experiment.opening import chosen
from mpt.experiment.trainer import has_native_bf16
from tests.console import SMALL, command, compose
from tests.experiment.test_train import rows as read_rows


@pytest.mark.slow
def test_the_first_lines_say_where_what_and_on_which_images(tmp_path):
    small = [word for word in SMALL if not word.startswith("epochs=")]
    lines = command("train", *small, "epochs=1", "prune=0.8", "hydra.run.dir=run", cwd=tmp_path).stdout.splitlines()
    assert lines[0] == "directory   run"
    assert lines[1].startswith("device      cpu, 1 process, 32-true")
    assert lines[2] == "data        synthetic: 320 training images of 3x8x8 in 4 classes, 64 for testing"
    assert lines[3].startswith("chosen      model=conv2 method=biprop prune=0.8 width=0.125 epochs=1 ")
    assert lines[4] == "time        one epoch"
    assert lines[5].split()[:3] == ["layer", "shape", "weights"]


@pytest.mark.slow
def test_the_options_named_are_those_that_differ_from_their_defaults_and_change_the_ticket():
    words = list(
        chosen(compose("model=conv4", "data=digits", "optim=adam", "seed=3", "method.gains=channel", "logger=local"))
    )
    assert words[:3] == ["model=conv4", "method=biprop", "method.gains=channel"]
    assert not [word for word in chosen(compose("model=mlp", "data=digits")) if word.startswith("model.")]
    assert "model.hidden=[7,5]" in chosen(compose("model=mlp", "data=digits", "model.hidden=[7,5]"))
    assert {"data=digits", "optim=adam", "seed=3"} <= set(words)
    assert not [word for word in words if word.startswith(("trainer", "logger", "runs", "prune"))]


def test_an_epoch_says_how_long_the_run_still_takes(run_here, capsys):
    _, directory = run_here("epochs=2")
    last = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch   2/2"))
    assert last.endswith(" images/s")
    monitor = Monitor(directory, num_images=320, show=True)
    monitor.load_state_dict({"rows": read_rows(directory)})  # as if it were the run of many epochs that has just begun
    assert monitor._line(monitor.rows[0], 100_000).endswith(" left")
    assert monitor._line(monitor.rows[1], 2) == last


@pytest.mark.slow
def test_the_time_of_the_whole_run_is_one_of_the_first_lines_and_is_estimated_after_the_first_epoch(run_here, capsys):
    _, directory = run_here("epochs=3")
    lines = capsys.readouterr().out.splitlines()
    assert lines[4] == "time        estimated after the first epoch"
    first = next(number for number, line in enumerate(lines) if line.startswith("epoch   1/3"))
    assert lines[first + 1].startswith("time        about ")
    assert " for 3 epochs" in lines[first + 1]
    assert sum(line.startswith("time ") for line in lines) == 2
    (directory / "result.json").unlink()
    run_here("epochs=3", "hydra.run.dir=" + str(directory))  # a run that was cut off knows its epochs
    assert capsys.readouterr().out.splitlines()[4].startswith("time        about ")


def test_the_time_is_printed_again_when_it_has_changed_much(tmp_path, capsys):
    monitor = Monitor(tmp_path, num_images=320, show=True)
    seconds = [10.0, 10.5, 9.5, *[100.0] * 6]
    for done in range(1, len(seconds) + 1):
        monitor.rows = [{"seconds": value} for value in seconds[:done]]
        monitor._tell_time(len(seconds))
    assert capsys.readouterr().out.splitlines() == [
        "time        about 90 seconds for 9 epochs, 80 seconds left",
        "time        about 3 minutes for 9 epochs, 52 seconds left",
        "time        about 5 minutes for 9 epochs, 42 seconds left",
        "time        about 10 minutes for 9 epochs, 5 minutes left",
    ]
    assert monitor.whole(9) == ""
    assert monitor.whole(10) == "100 seconds left of 12 minutes"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*mkldnn.*")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_prints_its_precision(run_here, capsys, precision):
    run_here(f"trainer.precision={precision}", "epochs=1")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("device"))
    assert line.startswith(f"device      cpu, 1 process, {precision}")
    assert line.endswith(", evaluation 32-true") is (precision == "bf16-mixed")
    hinted = "bf16-mixed was 1.6 to 1.9 times as fast" in line
    assert hinted is (precision == "32-true" and has_native_bf16())
