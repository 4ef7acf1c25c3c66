from __future__ import annotations

import json
import subprocess

import pytest

from tests.console import COMMANDS, SMALL, command, process, read_result

HERE = (*SMALL, "epochs=1", "hydra.run.dir=run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run in ``run``."""
    folder = tmp_path_factory.mktemp("finished")
    command("train", *HERE, cwd=folder)
    return folder


def refused(name, *arguments, cwd, **options):
    """The sentence with which a command refuses."""
    done = command(name, *arguments, cwd=cwd, check=False, **options)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines[-1].startswith(f"mpt-{name}: ")
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prune=1.2"], ["prune", "fraction removed", "[0, 1)", "1.2"]),
        (["prune=abc"], ["prune must be a number, got abc"]),
        (["prun=0.5"], ["no option prun", "did you mean prune?", "--help"]),
        (["-m", "prune=0.5,0.8", "optim.lrr=1"], ["no option optim.lrr", "did you mean optim.lr?"]),
        (["+prun=0.5"], ["no option prun"]),
        (["width=0"], ["width", "above 0"]),
        (["model=nope"], ["model has no choice 'nope'", "conv6"]),
        (["model=torchvision"], ["model.name", "resnet18"]),
        (["model=torchvision", "model.name=resnet19", "data=digits"], ["no classifier 'resnet19'", "resnet18"]),
        (["model=torchvision", "model.name=resnet18", "width=2", "data=digits"], ["width", "resnet18"]),
        (["data=image_folder"], ["data.root"]),
        (["data=image_folder", "data.root=nowhere"], ["no image folder at", "nowhere"]),
        (["data=cifar10", "data.root=nowhere", "data.download=false"], ["cifar10", "nowhere", "data=image_folder"]),
        (["method.score_grad=sgn", "data=digits"], ["score_grad", "weight, sign, gain"]),
        (["select=best_val", "data=digits"], ["held-out images", "data.val_size"]),
        (["trainer.devices=3", "data=digits", "trainer=cpu", "batch=64"], ["batch", "3 processes", "64"]),
        (["trainer=gpu", "data=digits"], ["trainer.accelerator=gpu", "machine"]),
        (["recipe=demo", "runs=/proc/nowhere"], ["/proc/nowhere"]),
        (["logger=wandb", "logger.mode=online", "data=digits"], ["wandb login"]),
    ],
)
def test_a_wrong_command_ends_with_one_sentence_and_writes_nothing(tmp_path, arguments, words):
    output = refused("train", *arguments, cwd=tmp_path, environment={"WANDB_API_KEY": "", "HOME": str(tmp_path)})
    for word in words:
        assert word in output
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.slow
def test_a_flag_shows_the_traceback(tmp_path):
    done = process("train", "--traceback", "prune=1.2", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_ticket_is_evaluated_on_its_own_data_by_default_and_its_control_is_not_better(finished):
    own = command("eval", "run/ticket.safetensors", cwd=finished).stdout
    shuffled = command("eval", "run/ticket.safetensors", "control=shuffled_mask", cwd=finished).stdout
    acc, control = (float(text.split()[1]) for text in (own, shuffled))
    assert acc == pytest.approx(100 * read_result(finished / "run")["test_acc"], abs=0.01)
    assert control < acc
    info = command("ticket", "info", "run/ticket.safetensors", cwd=finished).stdout
    assert "features.0" in info
    assert "bits" in info


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.safetensors"], ["no ticket at missing.safetensors"]),
        ([], ["one ticket file"]),
        (["run/ticket.safetensors", "data=digits"], ["1 channel ", "3 channels"]),
        (["run/ticket.safetensors", "model=conv4"], ["another backbone"]),
        (["run/ticket.safetensors", "control=nope"], ["control must be one of"]),
        (["run/ticket.safetensors", "datas=digits"], ["datas"]),
        (["run/ticket.safetensors", "accelerator=gpu"], ["accelerator=gpu"]),
    ],
)
def test_a_wrong_evaluation_ends_with_one_sentence(finished, arguments, words):
    output = refused("eval", *arguments, cwd=finished)
    for word in words:
        assert word in output


def test_a_truncated_ticket_is_refused_by_every_command(finished):
    content = (finished / "run" / "ticket.safetensors").read_bytes()
    (finished / "cut.safetensors").write_bytes(content[:-100])
    assert "truncated" in refused("eval", "cut.safetensors", cwd=finished)
    assert "truncated" in refused("ticket", "info", "cut.safetensors", cwd=finished)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_earlier_results_stay(finished):
    before = {path: path.read_bytes() for path in (finished / "run").iterdir()}
    limited = f"ulimit -f 40; exec {COMMANDS / 'mpt-train'} {' '.join(SMALL)} epochs=1 seed=5 hydra.run.dir=full"
    done = subprocess.run(["bash", "-c", limited], cwd=finished, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in (finished / "run").iterdir()} == before
    assert read_result(finished / "full")["status"] == "failed"
    command("train", *SMALL, "epochs=1", "seed=5", "hydra.run.dir=full", cwd=finished)
    assert read_result(finished / "full")["status"] == "done"


def test_a_multirun_has_one_directory_per_run_and_repeating_it_runs_nothing(tmp_path):
    arguments = ["-m", *(o for o in SMALL if not o.startswith("epochs")), "epochs=1", "prune=0.5,0.8"]
    command("train", *arguments, cwd=tmp_path)
    results = sorted((tmp_path / "runs").glob("*/result.json"))
    assert len(results) == 2
    assert {json.loads(path.read_text())["prune"] for path in results} == {0.5, 0.8}
    written = [path.stat().st_mtime_ns for path in results]
    assert "2 done" in command("train", *arguments, cwd=tmp_path).stdout
    assert [path.stat().st_mtime_ns for path in results] == written


@pytest.mark.slow
def test_flags_may_stand_behind_overrides_with_two_processes(tmp_path):
    (tmp_path / "mine").mkdir()
    arguments = [o for o in SMALL if "devices" not in o]
    done = process(
        "train", *arguments, "trainer.devices=2", "epochs=1", "hydra.run.dir=two", "-cd", "mine", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert read_result(tmp_path / "two")["processes"] == 2


def test_a_dry_run_of_a_single_run_says_where_and_how_long_and_writes_nothing(tmp_path):
    out = command("train", *SMALL, "--dry-run", cwd=tmp_path).stdout
    assert out.startswith("missing     runs/conv2-synthetic-biprop-p0.5-")
    assert "estimate: about" in out
    assert not list(tmp_path.iterdir())


def test_ctrl_c_in_training_exits_with_130_and_says_how_to_go_on(tmp_path, monkeypatch):
    import signal

    from mpt.experiment.module import TicketModule
    from mpt.signals import Interrupted

    def interrupt(self, batch, batch_idx):
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(TicketModule, "training_step", interrupt)
    done = command("train", *SMALL, "hydra.run.dir=run", cwd=tmp_path, check=False)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1].startswith("mpt-train: interrupted before the end of epoch 1 of 3")
    assert "0 failed" in command("status", ".", cwd=tmp_path).stdout
