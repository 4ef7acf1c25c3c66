"""Loggers get a finished run's ticket and result, at its end or later, and each of them once."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest

import mpt
from mpt.experiment.records import FILE, LAYERS, replay
from mpt.run.claim import hold_claim
from tests.console import SMALL, command, compose, read_result
from tests.recordings import events, offline

METRICS = ("test/acc", "train/loss", "ticket/density", "ticket/flips")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    command("train", *SMALL, "hydra.run.dir=run", cwd=folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path


def again(folder, *arguments, **environment):
    done = command("train", *SMALL, *arguments, "hydra.run.dir=run", cwd=folder, environment=environment)
    assert "this run is finished" in done.stdout
    return done.stdout


def rows_of(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def check_events(directory):
    read, result, rows = events(directory), read_result(directory), rows_of(directory)
    for name in METRICS:
        logged = [(event.step, pytest.approx(event.value, rel=1e-6)) for event in read.Scalars(name)]
        assert [(row["epoch"], row[name]) for row in rows] == logged
    layers = [layer.name for layer in mpt.Ticket.load(directory / "ticket.safetensors").layers]
    assert len(read.Images("ticket/kernels")) == 1
    for layer in layers:
        (histogram,) = read.Histograms(f"ticket/scores/{layer}")
        assert histogram.histogram_value.num > 0
    (text,) = read.Tensors("ticket/layers/text_summary")
    assert [line.split(" | ")[0] for line in text.tensor_proto.string_val[0].decode().splitlines()[2:]] == [
        f"| {layer}" for layer in layers
    ]
    for key in ("test_acc", "bits_per_weight", "file_bits_per_weight"):
        assert read.Scalars(f"result/{key}")[0].value == pytest.approx(result[key], rel=1e-6)


def check_recording(read, directory):
    result, rows = read_result(directory), rows_of(directory)
    ticket = mpt.Ticket.load(directory / "ticket.safetensors")
    for name in METRICS:
        logged = [(item["_step"], item[name]) for item in read.history if name in item]
        assert logged == [(row["epoch"], pytest.approx(row[name])) for row in rows]
    columns, table = read.table("ticket/layers")
    assert tuple(columns) == LAYERS
    assert [row[:4] for row in table] == [
        [layer.name, "x".join(map(str, layer.shape)), layer.num_weights, layer.kept] for layer in ticket.layers
    ]
    pixels = {tuple(int(value) for value in pixel) for row in read.picture("ticket/kernels") for pixel in row}
    assert pixels == {(213, 94, 0), (228, 231, 235), (0, 114, 178), (255, 255, 255)}
    for layer in ticket.layers:
        assert sum(read.value(f"ticket/scores/{layer.name}")["values"]) == layer.num_weights
    for key in ("test_acc", "bits_per_weight", "file_bits_per_weight", "num_kept"):
        assert read.summary[key] == pytest.approx(result[key])
    assert f"ticket-{read.run['run_id']}" in read.artifacts
    assert read.about["exit_code"] == 0


@pytest.mark.slow
def test_tensorboard_gets_a_finished_run_once(folder):
    assert "recorded for TensorBoard in" in again(folder, "logger=tensorboard")
    check_events(folder / "run")
    before = sorted((folder / "run" / "tensorboard").iterdir())
    assert "recorded before: for TensorBoard in" in again(folder, "logger=tensorboard")
    assert sorted((folder / "run" / "tensorboard").iterdir()) == before
    (folder / "run" / FILE).unlink()  # as after a kill between the two: its files are replaced
    again(folder, "logger=tensorboard")
    check_events(folder / "run")


def test_a_run_that_has_just_ended_and_notes_its_loggers_a_moment_later_is_not_recorded_again(folder):
    again(folder, "logger=tensorboard")
    noted = (folder / "run" / FILE).read_text()
    (folder / "run" / FILE).unlink()
    held = threading.Event()

    def end():
        with hold_claim(folder / "run"):
            held.set()
            time.sleep(0.2)
            (folder / "run" / FILE).write_text(noted)

    thread = threading.Thread(target=end)
    thread.start()
    held.wait()
    settings = compose(*SMALL, "logger=tensorboard")
    assert replay(settings, folder / "run", read_result(folder / "run")).startswith(
        "recorded before: for TensorBoard in"
    )
    thread.join()


def test_without_its_checkpoint_a_run_is_recorded_without_scores(folder):
    (folder / "run" / "last.ckpt").unlink()
    again(folder, "logger=tensorboard")
    read = events(folder / "run")
    assert read.Tags()["histograms"] == []
    assert len(read.Images("ticket/kernels")) == 1


def test_a_dense_network_is_recorded_without_layers(tmp_path):
    command("train", *SMALL, "epochs=1", "method=dense", "logger=tensorboard", "hydra.run.dir=run", cwd=tmp_path)
    assert events(tmp_path / "run").Tags()["images"] == []
    assert events(tmp_path / "run").Scalars("result/test_acc")


def test_a_disabled_wandb_records_nothing(folder):
    assert "recorded" not in again(folder, "logger=wandb", WANDB_MODE="disabled")
    assert not (folder / "run" / "wandb").exists()
    assert not (folder / "run" / FILE).exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wandb_gets_a_finished_run_once_and_again_if_it_was_removed(folder):
    assert "recorded for W&B in" in again(folder, "logger=[wandb,tensorboard]")
    check_events(folder / "run")
    (read,) = offline(folder / "run")
    check_recording(read, folder / "run")
    assert "recorded before: for W&B in" in again(folder, "logger=[wandb,tensorboard]")
    assert len(offline(folder / "run")) == 1
    shutil.rmtree(folder / "run" / "wandb")
    again(folder, "logger=wandb")
    (second,) = offline(folder / "run")
    assert second.run["run_id"] == read.run["run_id"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_logs_to_both_at_its_end_what_a_replay_logs_later(tmp_path):
    command("train", *SMALL, "logger=[wandb,tensorboard]", "hydra.run.dir=run", cwd=tmp_path)
    (read,) = offline(tmp_path / "run")
    check_recording(read, tmp_path / "run")
    check_events(tmp_path / "run")
    assert len(json.loads((tmp_path / "run" / FILE).read_text())) == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wandb_s_environment_variables_count_where_no_option_says_otherwise(folder):
    import wandb

    wandb.teardown()  # so that it reads the variables
    variables = {
        "WANDB_PROJECT": "theirs",
        "WANDB_ENTITY": "team",
        "WANDB_RUN_GROUP": "group",
        "WANDB_NAME": "name",
        "WANDB_RUN_ID": "identity",
        "WANDB_TAGS": "a,b",
        "WANDB_NOTES": "notes",
        "WANDB_JOB_TYPE": "job",
        "WANDB_DIR": str(folder / "elsewhere"),
    }
    said = again(folder, "logger=wandb", "logger.tags=[c]", "logger.group=mine", **variables)
    assert str(folder / "elsewhere" / "wandb") in said
    (read,) = offline(folder / "elsewhere")
    run = read.run
    assert (run["project"], run["entity"], run["run_group"]) == ("theirs", "team", "mine")
    assert (run["display_name"], run["run_id"], run["notes"], run["job_type"]) == ("name", "identity", "notes", "job")
    assert run["tags"] == ["c", "a", "b"]
    assert not (folder / "run" / "wandb").exists()
    assert "recorded before" in again(folder, "logger=wandb", **variables)
    wandb.teardown()  # which has read them
